"""Shipped weights: they load, they are the ones that were measured, and errors name what exists."""

from __future__ import annotations

import pytest
import torch

import tutor
from tutor import pretrained
from tutor.models import VAE


@pytest.mark.parametrize("name", pretrained.names())
def test_shipped_models_load_and_say_where_they_come_from(name):
    model = pretrained.load(name)
    assert not model.training
    made = pretrained.provenance(name)
    assert {"model", "arguments", "data", "steps", "measured", "origin"} <= made.keys()
    assert {"command", "version", "torch", "machine", "date"} <= made["origin"].keys()


def test_the_shipped_vae_is_the_one_that_was_measured():
    test = tutor.data.load("mnist", split="test", fallback="digits")
    if test.name != "mnist":
        pytest.skip("MNIST is not at hand")
    model = pretrained.load("vae_mnist_2d")
    x = test.binarized(seed=0)[:]
    measured = pretrained.provenance("vae_mnist_2d")["measured"]
    bound = tutor.metrics.elbo(model, x, generator=torch.Generator().manual_seed(7))
    # one draw an image: the spread over draws of the mean of 10 000 is below 0.1 nats
    assert bound.mean().item() == pytest.approx(measured["elbo"], abs=0.5)


def test_save_and_load_give_the_same_weights(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = pretrained.halve(VAE(3, image_shape=(1, 4, 4)))
    pretrained.save(
        model, tmp_path, "mine", {"arguments": {"latent_dim": 3, "image_shape": [1, 4, 4]}}
    )
    monkeypatch.setattr(pretrained, "_WEIGHTS", tmp_path)
    assert pretrained.names() == ["mine"]
    again = pretrained.load("mine")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_networks_of_another_size_are_built_again(tmp_path, monkeypatch):
    arguments = {"latent_dim": 3, "image_shape": (1, 4, 4)}
    narrow = {"image_shape": (1, 4, 4), "outputs": 6, "hidden": (5,)}
    networks = {"encoder": ("mlp_encoder", narrow)}
    model = pretrained.halve(pretrained.build("VAE", arguments, networks))
    assert model.encoder[1].out_features == 5
    pretrained.save(model, tmp_path, "mine", {"arguments": arguments, "networks": networks})
    monkeypatch.setattr(pretrained, "_WEIGHTS", tmp_path)
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(pretrained.load("mine").reconstruct(x), model.eval().reconstruct(x))


def test_weights_with_channels_last_are_saved(tmp_path, monkeypatch):
    """In any memory order: the file format itself takes one order only."""
    networks = {"discriminator": ("factor_vae_discriminator", {"latent_dim": 2, "width": 4})}
    torch.manual_seed(0)
    model = pretrained.halve(pretrained.build("FactorVAE", {"latent_dim": 2}, networks))
    assert not model.encoder[2].weight.is_contiguous()
    about = {"arguments": {"latent_dim": 2}, "networks": networks}
    pretrained.save(model, tmp_path, "mine", about)
    monkeypatch.setattr(pretrained, "_WEIGHTS", tmp_path)
    again = pretrained.load("mine")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not again.encoder[2].weight.is_contiguous()


def test_weights_that_would_change_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"does not fit float16; call halve"):
        pretrained.save(VAE(3, image_shape=(1, 4, 4)), tmp_path, "mine", {})


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'vae_mnist2d'; did you mean 'vae_mnist_2d'\?"):
        pretrained.load("vae_mnist2d")
    with pytest.raises(ValueError, match=r"Known: .*vae_beta_grid") as caught:
        pretrained.results("nothing")
    listed = str(caught.value).split("Known: ")[1].split(", ")
    assert listed == sorted(listed)  # a folder lists its files in no order


def test_results_are_tables_with_their_origin():
    for file in pretrained._RESULTS.iterdir():
        table = pretrained.results(file.name.removesuffix(".json"))
        assert len(table) > 0
        assert {"command", "version", "torch", "machine", "date"} <= table.attrs["origin"].keys()
        assert table.attrs["origin"]["command"].startswith("python -m experiments.")


def test_a_weight_that_float16_cannot_hold_is_refused():
    model = VAE(3, image_shape=(1, 4, 4))
    with torch.no_grad():
        model.decoder[0].bias[0] = 1e6
    with pytest.raises(ValueError, match=r"decoder\.0\.bias has values beyond 65504"):
        pretrained.halve(model)


def test_counters_are_kept_as_they_are(tmp_path, monkeypatch):
    """float16 has no 3001, and nothing beyond 65504; whole numbers need neither."""
    arguments = {"image_shape": (1, 2, 2), "annealing_steps": 200_000}
    model = pretrained.build("AVB", arguments, {})
    for steps in (3_001, 100_000):
        model.steps_taken.fill_(steps)
        pretrained.save(pretrained.halve(model), tmp_path, "mine", {"arguments": arguments})
        monkeypatch.setattr(pretrained, "_WEIGHTS", tmp_path)
        again = pretrained.load("mine")
        assert model.steps_taken.item() == again.steps_taken.item() == steps
        assert again.steps_taken.dtype == torch.int64
        assert all(p.dtype == torch.float32 for p in again.parameters())


# -- recordings -----------------------------------------------------------------------------------


def test_a_recording_comes_back_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_RECORDINGS", tmp_path)
    codes = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)).half()
    steps = torch.tensor([0, 1, 2])
    pretrained.save_recording({"codes": codes, "steps": steps}, tmp_path, "mine", {"by": "me"})
    tensors, about = pretrained.recording("mine")
    assert about == {"by": "me"}
    assert torch.equal(tensors["steps"], steps)
    assert tensors["codes"].dtype == torch.float32
    assert torch.equal(tensors["codes"], codes.float())


def test_a_recording_that_is_not_finite_is_refused(tmp_path):
    too_large = torch.tensor([70_000.0]).half()
    with pytest.raises(ValueError, match="codes holds NaN or infinity"):
        pretrained.save_recording({"codes": too_large}, tmp_path, "mine", {})


def test_recordings_are_no_models():
    shipped = {f.name.removesuffix(".json") for f in pretrained._RECORDINGS.iterdir()}
    assert "aae_priors" in shipped
    with pytest.raises(ValueError, match="nothing shipped is called"):
        pretrained.recording("vae_mnist_2d")


def test_the_recorded_codes_end_nearer_to_their_prior_than_they_began():
    from tutor.metrics import energy_distance
    from tutor.priors import Gaussian, GaussianMixture, SwissRoll, UniformBox

    tensors, _ = pretrained.recording("aae_priors")
    priors = {
        "gaussian": Gaussian(2),
        "mixture": GaussianMixture(10),
        "swiss_roll": SwissRoll(),
        "uniform": UniformBox(2),
    }
    for name, prior in priors.items():
        drawn = prior.sample((500,), generator=torch.Generator().manual_seed(0))
        codes = tensors[f"{name}.codes"]
        assert len(codes) == len(tensors["steps"])
        first, last = energy_distance(codes[0], drawn), energy_distance(codes[-1], drawn)
        assert last < first / 10  # runs that were measured end hundreds of times nearer


def test_a_part_or_model_of_an_unknown_name_is_named():
    with pytest.raises(ValueError, match="'mlp_encode'"):
        pretrained.build("VAE", {}, {"encoder": ("mlp_encode", {})})
    with pytest.raises(ValueError, match="no model 'VAEE'"):
        pretrained.build("VAEE", {}, {})
