"""The sparse engine: run a diffusion model densely once, then only on the sites an edit touches.

    cache = ActivationCache()
    with record(unet, cache):
        y0 = unet(x0, t, context).sample
    with sparse(unet, cache, SitePyramid.from_mask(mask)):
        y1 = unet(x1, t, context).sample

Knows torch and the leaves of diffusers' blocks; knows no pipeline, no scheduler and no task.
"""

from sparsedit.sparse.cache import ActivationCache
from sparsedit.sparse.difference import ChangedCache
from sparsedit.sparse.foretelling import Foretelling
from sparsedit.sparse.graphs import ThinGraphs
from sparsedit.sparse.interpolation import InterpolatedCache
from sparsedit.sparse.mending import mending
from sparsedit.sparse.moving import Motion, MovedCache, SettlingCache
from sparsedit.sparse.packing import PackedWeights
from sparsedit.sparse.sites import SitePyramid, dilate
from sparsedit.sparse.swap import alongside, leaving_out, record, renewing, sparse

__all__ = [
    "ActivationCache",
    "ChangedCache",
    "Foretelling",
    "InterpolatedCache",
    "Motion",
    "MovedCache",
    "PackedWeights",
    "SettlingCache",
    "SitePyramid",
    "ThinGraphs",
    "alongside",
    "dilate",
    "leaving_out",
    "mending",
    "record",
    "renewing",
    "sparse",
]
