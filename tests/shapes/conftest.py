import pytest
from diffusers import AutoencoderKL

from stepcredit.shapes.pipeline import load_pipeline


@pytest.fixture(scope="session")
def vae() -> AutoencoderKL:
    """The autoencoder of the bundled pipelines."""
    return load_pipeline().vae
