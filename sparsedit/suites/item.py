"""One edit of a suite, whatever the suite: what is said about it, and its pictures when they are asked for.

Words and ids of a whole suite are cheap and may be sorted, chosen from and counted; pictures are drawn or read one
edit at a time, so a suite of any size needs the memory of one. No model and no run is known here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image

from sparsedit.suites.brackets import strip_brackets
from sparsedit.suites.rle import Mask

# PIE-Bench's `editing_type_id` and its name.
EDIT_TYPES = {
    0: "random",
    1: "change object",
    2: "add object",
    3: "delete object",
    4: "change content",
    5: "change pose",
    6: "change colour",
    7: "change material",
    8: "change background",
    9: "change style",
}


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of one edit: RGB, all of one size, and `mask`, bool [H, W], true where the edit belongs.

    `painted` is the original with strokes inside the mask, what SDEdit starts from; `truth` what the edit should
    have made. Both are None in suites that have none.
    """

    original: Image.Image
    mask: Mask
    painted: Image.Image | None = None
    truth: Image.Image | None = None


@dataclass(frozen=True)
class SuiteItem(ABC):
    """One edit. The bracketed prompts are PIE-Bench's: `[ ]` around the words that the edit changes.

    `blended_word` is a word of each prompt that names the edited thing, or "" when no such pair exists.
    """

    id: str
    edit_type: int
    bracketed_source: str
    bracketed_target: str
    instruction: str
    blended_word: str

    @property
    def edit_type_name(self) -> str:
        return EDIT_TYPES[self.edit_type]

    @property
    def source_prompt(self) -> str:
        """The prompt of the original, as a model gets it."""
        return strip_brackets(self.bracketed_source)

    @property
    def target_prompt(self) -> str:
        """The prompt of the edit, as a model gets it."""
        return strip_brackets(self.bracketed_target)

    @abstractmethod
    def pictures(self) -> Pictures:
        """Draw or read the pictures; the item keeps none. Raises InputError when they cannot be used."""
