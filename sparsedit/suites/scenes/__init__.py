"""Procedural landscapes: pictures, captions, stroke sketches and edits, all from a seed.

The demo model is trained on these pictures and the demo suite edits them, so a picture 256 px wide is a
fixed function of its seed: a change here that moves one pixel is a change of the training set. Wider
pictures follow the same rules with positions spread over the width. numpy and scipy only, no model, no files.

`scene` samples what is in a picture, `render` paints it, `caption` says it in words, `edits` changes it.
"""
