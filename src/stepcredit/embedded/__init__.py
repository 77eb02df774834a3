"""The shapes world: a text-to-image task small enough to train, fine-tune and judge on a laptop.

`world` defines scenes and captions, `render` draws them, `tokenizer` reads them, `networks` builds the tiny Stable
Diffusion parts, `checker` judges images attribute by attribute, `build` trains everything, `pipeline` loads the
packaged result.
"""
