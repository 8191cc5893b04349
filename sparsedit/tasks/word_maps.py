"""Where a UNet looks for words: its cross-attention to some tokens of a prompt, as maps (Hertz et al., 2022).

A second source of masks for prompt edits. The latents show where the picture has changed, background that drifts
included; attention shows where the new words go, and nothing of words that were only taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import SequenceMatcher
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sparsedit.errors import SettingsError


def new_tokens(tokenizer: Any, prompt: str, edit_prompt: str) -> list[int]:
    """The places of the edit's tokens that the original's prompt has not, the start token being at 0.

    Raises SettingsError where words were only taken away.
    """
    length = {"truncation": True, "max_length": tokenizer.model_max_length}
    before, after = (tokenizer(text, **length).input_ids for text in (prompt, edit_prompt))
    changes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    places = [place for kind, _, _, first, end in changes if kind != "equal" for place in range(first, end)]
    if not places:
        raise SettingsError(
            "the edit's prompt only takes words away, so attention has none to look for: use --mask-from latents"
        )
    return places


class WordMaps:
    """Adds up the attention that a UNet's cross-attentions give to some tokens, [h, w] for each call.

    Of a batch the last row is looked at: under guidance the one with the prompt. Maps of coarser resolutions are
    brought to the latents' `size` bilinearly; all layers count alike.
    """

    def __init__(self, places: Sequence[int], size: tuple[int, int]) -> None:
        self.places = list(places)
        self.size = size
        self.found: list[Tensor] = []
        self.hooks = ExitStack()

    @contextmanager
    def watching(self, unet: nn.Module) -> Iterator[None]:
        """Look at every call of `unet` in the block, until `stop`."""
        with self.hooks:
            for module in unet.modules():
                if isinstance(module, Attention) and module.is_cross_attention:
                    self.hooks.callback(module.register_forward_pre_hook(self._look, with_kwargs=True).remove)
            yield

    def take(self) -> Tensor:
        """The map [h, w] of the calls since the last one was taken."""
        total = torch.stack(self.found).mean(0)
        self.found.clear()
        return total

    def stop(self) -> None:
        """Look no further."""
        self.hooks.close()

    def _look(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(attention, Attention)
        tokens, text = args[0][-1:], kwargs["encoder_hidden_states"][-1:]
        query, key = (attention.head_to_batch_dim(each) for each in (attention.to_q(tokens), attention.to_k(text)))
        weights = attention.get_attention_scores(query, key)[:, :, self.places].float().sum(2).mean(0)
        map_ = weights.view(1, 1, *self._size_of(len(weights)))
        self.found.append(F.interpolate(map_, self.size, mode="bilinear", align_corners=False)[0, 0])

    def _size_of(self, tokens: int) -> tuple[int, int]:
        """Which of the UNet's resolutions has so many sites."""
        height, width = self.size
        while height * width > tokens:
            height, width = -(-height // 2), -(-width // 2)
        return height, width
