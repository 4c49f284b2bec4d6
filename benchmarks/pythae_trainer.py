"""pythae 0.1.2: its own models and trainers where it is installed, else a stand-in.

``make bench`` installs it into an environment of its own.  The stand-in is our own code and does
what the trainer does at each step: dictionaries of single images collated by a DataLoader, a
decoder that ends in a sigmoid, Adam with its defaults, the loss read out and added up, a progress
bar.  What a trainer does once an epoch (copying the best model) is timed for neither.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset

from benchmarks import peers
from benchmarks.peers import BATCH, reparameterised
from benchmarks.race import Contestant
from tutor.models import VAE, FactorVAE

INSTALLED = importlib.util.find_spec("pythae") is not None
NAME = "pythae"
WHAT = "its own trainer, 0.1.2" if INSTALLED else "stand-in, our own code: pythae is not installed"


def vae(model: VAE, images: Tensor) -> Contestant:
    """pythae's `BaseTrainer` on its `VAE` with the given networks; one epoch is one round."""
    if not INSTALLED:
        return Contestant(NAME, WHAT, _stand_in(model, images))
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    config = BaseTrainerConfig(learning_rate=1e-3, **_common())
    return Contestant(NAME, WHAT, _train_with(BaseTrainer, config, _wrapped(model), images))


def factor_vae(model: FactorVAE, images: Tensor) -> Contestant:
    """pythae's `AdversarialTrainer` on its `FactorVAE`, which splits a batch into two."""
    if not INSTALLED:
        return Contestant(NAME, WHAT, _adversarial_stand_in(model, images))
    from pythae.trainers import AdversarialTrainer, AdversarialTrainerConfig

    config = AdversarialTrainerConfig(
        autoencoder_learning_rate=1e-3, discriminator_learning_rate=1e-3, **_common()
    )
    return Contestant(NAME, WHAT, _train_with(AdversarialTrainer, config, _wrapped(model), images))


def vae_loss(model: VAE, x: Tensor) -> Tensor:
    """The loss that this contestant minimises."""
    if INSTALLED:
        return _wrapped(model)({"data": x}).loss
    return _loss(model, x)


def factor_vae_losses(model: FactorVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two losses that this contestant minimises."""
    if INSTALLED:
        out = _wrapped(model)({"data": x})
        return out.autoencoder_loss, out.discriminator_loss
    return _two_losses(model, x)


# --- with pythae ---------------------------------------------------------------------------------


def _common() -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(prefix="pythae-"),
        "per_device_train_batch_size": BATCH,
        "num_epochs": 1,
        "no_cuda": True,
    }


def _wrapped(model: VAE) -> Any:
    """pythae's model around the very same networks."""
    from pythae.models import VAE as Theirs
    from pythae.models import FactorVAE as TheirFactorVAE
    from pythae.models import FactorVAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Any:
            mean, log_var = self.net(x).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    sizes = {
        "input_dim": model.image_shape,
        "latent_dim": model.latent_dim,
        "reconstruction_loss": "bce",
    }
    networks = {"encoder": Encoder(model.encoder), "decoder": Decoder(model.decoder)}
    if not isinstance(model, FactorVAE):
        return Theirs(VAEConfig(**sizes), **networks)
    theirs = TheirFactorVAE(FactorVAEConfig(gamma=model.gamma, **sizes), **networks)
    theirs.discriminator.layers = model.discriminator
    return theirs


def _train_with(trainer_class: type, config: Any, theirs: nn.Module, images: Tensor) -> Any:
    from pythae.data.datasets import BaseDataset

    with _quiet():
        dataset = BaseDataset(images, torch.zeros(len(images)))
        trainer = trainer_class(theirs, dataset, training_config=config)
        trainer.prepare_training()
    epochs = 0

    def train(steps: int) -> None:
        nonlocal epochs
        if len(trainer.train_loader) != steps:
            raise ValueError(f"an epoch has {len(trainer.train_loader)} steps, asked for {steps}")
        epochs += 1
        with _quiet():
            trainer.train_step(epochs)

    return train


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on the screen; the progress bar writes as it would."""
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


# --- without it ----------------------------------------------------------------------------------


class _Dictionaries(Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images, self.labels = images, torch.zeros(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"data": self.images[index], "labels": self.labels[index]}


def _loss(model: VAE, x: Tensor) -> Tensor:
    mean, log_var = model.encoder(x).chunk(2, dim=1)
    probabilities = model.decoder(reparameterised(mean, log_var)).sigmoid()
    return peers.negative_elbo_from_probabilities(x, probabilities, mean, log_var)


def _two_losses(model: FactorVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    from benchmarks.factor_vae import two_losses

    first, second = x[torch.randperm(len(x))].chunk(2)
    return two_losses(model, first, second, from_logits=False)


def _loader(images: Tensor) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from DataLoader(_Dictionaries(images), batch_size=BATCH, shuffle=True)


def _stand_in(model: VAE, images: Tensor) -> Any:
    optimizer, bar = Adam(model.parameters(), lr=1e-3), peers.progress_bar()

    def step(batch: dict[str, Tensor]) -> float:
        loss = _loss(model, batch["data"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.update()
        return loss.item()

    return peers.steps_over(_loader(images), step)


def _adversarial_stand_in(model: FactorVAE, images: Tensor) -> Any:
    from benchmarks.factor_vae import Together

    game, bar = Together(model, (1e-3, 1e-3), from_logits=False), peers.progress_bar()

    def step(batch: dict[str, Tensor]) -> float:
        x = batch["data"]
        x = x[torch.randperm(len(x))]
        bar.update()
        return game.step(*x.chunk(2))

    return peers.steps_over(_loader(images), step)
