"""The cover: the plane of the shipped 2-D VAE, decoded, each tile in the colour of its class.

python -m experiments.cover
"""

from __future__ import annotations

import torch
from matplotlib.colors import to_rgb
from PIL import Image

import tutor
from experiments.record import ROOT
from tutor.palette import CARD, PALETTE

COLUMNS, ROWS, REACH = 44, 20, (2.9, 1.6)  # tiles, and the half-width of the plane shown


def main() -> None:
    vae = tutor.pretrained.load("vae_mnist_2d")
    test = tutor.data.load("mnist", split="test").binarized(seed=0)
    z = torch.cartesian_prod(
        torch.linspace(REACH[1], -REACH[1], ROWS), torch.linspace(-REACH[0], REACH[0], COLUMNS)
    ).flip(1)
    with torch.no_grad():
        ink = vae.decode(z).mean[:, 0]  # (tiles, 28, 28): how much ink
        codes = vae.encode(test[:]).mean
    nearest = torch.cdist(z, codes).topk(15, largest=False).indices
    classes = test.labels[nearest].mode(1).values
    colours = torch.tensor([to_rgb(PALETTE[k]) for k in classes.tolist()])[:, None, None]
    card = torch.tensor(to_rgb(CARD))
    tiles = card + ink[..., None] * (colours - card)  # (tiles, 28, 28, 3)
    sheet = tiles.view(ROWS, COLUMNS, 28, 28, 3).permute(0, 2, 1, 3, 4)
    pixels = (255 * sheet.reshape(ROWS * 28, COLUMNS * 28, 3)).round().byte()
    picture = Image.fromarray(pixels.numpy()).quantize(96)  # a third of the bytes
    picture.save(ROOT / "book" / "_static" / "cover.png", optimize=True)


if __name__ == "__main__":
    main()
