"""What an edit does with a picture, one page per task: encode, denoise, decode."""
