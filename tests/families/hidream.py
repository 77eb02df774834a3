"""HiDream: two CLIPs, a T5 and every layer of a Llama, double and single blocks with experts, a negated output."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, HiDreamImagePipeline, HiDreamImageTransformer2DModel
from tests.families.parts import byte_tokenizer, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH, tiny_t5, tiny_t5_tokenizer, tiny_text_encoder, tiny_tokenizer, tiny_vae
from transformers import CLIPTextModelWithProjection, LlamaConfig, LlamaForCausalLM

CALL: dict[str, Any] = {"height": 128, "width": 128, "max_sequence_length": 12}


def build(seed: int = 0, experts: int = 4) -> HiDreamImagePipeline:
    """One double and one single block, each with two of `experts`.

    The pipeline enlarges every image to as many pixels as 128x128 latents have, here 128x128.
    They are 64 tokens. All published checkpoints have four experts, which run without gradients.
    """
    with seeded(seed):
        tokenizer, words = tiny_tokenizer(), byte_tokenizer()
        llama = LlamaConfig(
            vocab_size=len(words),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=64,
            initializer_range=0.2,
            attn_implementation="eager",  # the pipeline asks for the attentions
        )
        transformer = HiDreamImageTransformer2DModel(
            patch_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[TEXT_WIDTH, TEXT_WIDTH],
            text_emb_dim=2 * TEXT_WIDTH,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(128, 128),
            llama_layers=[0, 1],
            num_routed_experts=experts,
        )
        vae = tiny_vae(
            block_out_channels=(4,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            shift_factor=0.06,
            scaling_factor=1.5,
        )
        return ready(
            HiDreamImagePipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=vae,
                text_encoder=tiny_text_encoder(tokenizer, CLIPTextModelWithProjection),
                tokenizer=tokenizer,
                text_encoder_2=tiny_text_encoder(tokenizer, CLIPTextModelWithProjection),
                tokenizer_2=tiny_tokenizer(),
                text_encoder_3=tiny_t5(),
                tokenizer_3=tiny_t5_tokenizer(),
                text_encoder_4=LlamaForCausalLM(llama),
                tokenizer_4=words,
                transformer=randomize(transformer),
            )
        )
