"""Encoded images to the pixels that a CLIP model sees, with Pillow, libjpeg-turbo or DALI, and back to smaller files."""
