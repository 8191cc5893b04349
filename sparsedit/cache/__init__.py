"""Recordings that outlive an edit: where remembered steps lie, how small they are made, and whether they still hold.

    DIR/<key>/recording.json                  written last: what was recorded (the fingerprint), steps and bytes
    DIR/<key>/unet-0003.safetensors           one file per stage and step, with its checksum in its header
    DIR/<key>/unet-texts.safetensors          keys and values of the prompts
    DIR/<key>/picture.safetensors             the original's own picture
    DIR/.locks/<key>                          held by whoever records

A file appears whole or not at all, and a folder without `recording.json` is no recording, so a process that is killed
leaves nothing that could be mistaken for one. Knows the engine's caches; of pipelines only what `Stages` tells.
"""
