"""The shapes world: two tiny text-to-image pipelines and five rewards that train on a laptop CPU.

Scenes show one shape on a plain background. This folder holds what is needed at run time:

- `world`: scenes, captions, and the split into training and held-out captions.
- `render`: draws scenes as 32x32 images.
- `pipeline`: loads the bundled pipelines (`embedded`, `embedded-flow`) and the checker.
- `checker`: classifies each attribute of an image, for the reward `alignment`.
- `scorers`: the networks of the preference rewards, built on `color_features` and `augmentations`.
- `rules`: the hidden rules that the preference rewards were trained on.
- `tokenizer`: the CLIP tokenizer of the captions.

`build/` holds the code that trained the weights. Nothing outside `build/` imports it.
"""
