"""Sites and plans in tensors of fixed shape, so that one CUDA graph serves many masks.

A graph is captured over addresses and shapes. Here every list of sites is filled up to a number of places by repeating
its last site, and every halo by repeating its last row. A repeated site computes what the site itself computes and
writes it to the same place, so padding costs a little time and changes nothing else. Geometry only, as in `sites.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparsedit.sparse.sites import Neighbours, SitePyramid, Sites, Size, Window, send

CPU = torch.device("cpu")
HALO_SLACK = 2
"""Halos get this many times the places they need: their rows are only fetched, and their number follows an edit's
outline rather than its area, so that with less slack few masks would fit."""
FEWEST = 16
"""Places in the smallest bucket."""
WASTE = 2
"""A mask is thought too small for places of which it would use less than one in so many."""


def places_for(count: int) -> int:
    """The size of a bucket that holds `count` sites: `count` rounded up to three binary digits, at least 16."""
    step = 1 << max(count.bit_length() - 3, 3)
    return max(-(-count // step) * step, FEWEST)


class PaddedPyramid(SitePyramid):
    """The sites of one mask in as many places as others like it need; `load` writes another mask's into them.

    `exact` leaves lists of sites as long as they are, for models that count their sites (halos are padded all the
    same). Levels and plans are laid out when they are first asked for.
    """

    def __init__(self, sites: SitePyramid, device: torch.device, exact: bool = False) -> None:
        super().__init__(sites.mask, sites.level_dilation, device)
        self.exact = exact
        self.held = sites

    def level(self, size: Size) -> Sites:
        if size not in self._levels:
            sites = self._source.level(size)
            places = sites.count if self.exact else places_for(sites.count)
            self._levels[size] = replace(sites, index=send(fill_up(sites.index, places), self.device))
        return self._levels[size]

    def neighbours(self, window: Window) -> Neighbours:
        if window not in self._plans:
            places = places_for(HALO_SLACK * len(self._source.neighbours(window).halo))
            plan = self._plan(window, places)
            self._plans[window] = Neighbours(send(plan.gather, self.device), send(plan.halo, self.device))
        return self._plans[window]

    def fits(self, sites: SitePyramid) -> bool:
        """Whether the sites of another mask go into these places, and fill enough of them to be worth it."""
        if sites is self.held:
            return True
        sites = sites.to(CPU)
        for size, level in self._levels.items():
            count = sites.level(size).count
            most = count if self.exact else places_for(WASTE * count)
            if not count <= level.count <= most:
                return False
        return all(len(sites.neighbours(window).halo) <= len(plan.halo) for window, plan in self._plans.items())

    def load(self, sites: SitePyramid) -> None:
        """Write the sites of a mask that `fits` into these places, in one transfer."""
        if sites is self.held:
            return
        self.held, self.mask, self.level_dilation = sites, sites.mask, sites.level_dilation
        tensors: list[Tensor] = []
        values: list[Tensor] = []
        for size, level in self._levels.items():
            new = self._source.level(size)
            self._levels[size] = replace(new, index=level.index)
            tensors.append(level.index)
            values.append(fill_up(new.index, level.count))
        for window, plan in self._plans.items():
            padded = self._plan(window, len(plan.halo))
            self._plans[window] = Neighbours(plan.gather, plan.halo)
            tensors += [plan.gather, plan.halo]
            values += [padded.gather, padded.halo]
        moved = torch.split(send(torch.cat(values), self.device), [len(value) for value in values])
        torch._foreach_copy_(tensors, list(moved))

    @property
    def _source(self) -> SitePyramid:
        return self.held.to(CPU)

    def _plan(self, window: Window, places: int) -> Neighbours:
        """A plan over padded rows, cat(active in their places, halo in its `places`, one zero row), on the CPU."""
        plan, active = self._source.neighbours(window), self._source.level(window.source).count
        moved = plan.gather + (plan.gather >= active) * (self.level(window.source).count - active)
        moved += (plan.gather >= active + len(plan.halo)) * (places - len(plan.halo))
        taps = moved.view(-1, window.kernel[0] * window.kernel[1])
        return Neighbours(fill_up(taps, self.level(window.output).count).flatten(), fill_up(plan.halo, places))


def fill_up(rows: Tensor, places: int) -> Tensor:
    """Rows [N, ...] and their last one again and again, [places, ...]; zeros where there is none."""
    if len(rows) == 0:
        return rows.new_zeros(places, *rows.shape[1:])
    return rows[torch.arange(places).clamp(max=len(rows) - 1)]
