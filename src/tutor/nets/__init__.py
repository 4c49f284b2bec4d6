"""Encoders, decoders and discriminators of the papers, one file a family, as plain modules.

An encoder maps images ``(n, C, H, W)`` to the numbers that describe q(z|x); a decoder maps codes
``(n, dim)`` to the numbers that describe p(x|z), shaped like the images.
"""

from tutor.nets.factor_vae import (
    factor_vae_decoder,
    factor_vae_discriminator,
    factor_vae_encoder,
)
from tutor.nets.plain import mlp, mlp_decoder, mlp_encoder
from tutor.nets.wae import (
    KnownPriorDiscriminator,
    celeba_decoder,
    celeba_encoder,
    wae_decoder,
    wae_discriminator,
    wae_encoder,
)

__all__ = [
    "KnownPriorDiscriminator",
    "celeba_decoder",
    "celeba_encoder",
    "factor_vae_decoder",
    "factor_vae_discriminator",
    "factor_vae_encoder",
    "mlp",
    "mlp_decoder",
    "mlp_encoder",
    "wae_decoder",
    "wae_discriminator",
    "wae_encoder",
]
