"""The shapes world: a text-to-image task small enough to train, fine-tune and judge on a laptop.

`world` defines scenes and captions, `render` draws them, `tokenizer` reads them, `checker` judges images attribute by
attribute. `networks` builds the tiny Stable Diffusion parts and `training` trains them; `flow_networks` and
`flow_training` do so for Stable Diffusion 3, on the shared `loop`. `build` runs it all in `stages`, `evaluation` judges
and `packaging` writes the result, `pipeline` loads it. `latents` and `draws` are what all of them share.

For the preference rewards, `pictures` strays from the captions, `rules` values pictures as hidden judges do, `damage`
spoils them, `preference_pairs` puts this together, `scorers` learn from it in `preference_training`,
`preference_agreement` judges them and `preferences` runs it all.
"""
