"""Chapter 4, transport: the line, prices, Sinkhorn, the encoder of the proof."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tutor.checks.grading import Formula, Mistake
from tutor.transport import distance_table, exact_plan
from tutor.transport import sinkhorn as entropic

F64 = torch.float64


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _masses(n: int, seed: int) -> Tensor:
    raw = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=F64) + 0.1
    return raw / raw.sum()


def _line(x: Tensor, y: Tensor) -> Tensor:
    return (x.sort().values - y.sort().values).abs().mean()


LINE_INSTANCE = (torch.tensor([1.0, 6.0, 0.0], dtype=F64),
                 torch.tensor([3.0, -3.0, 5.0], dtype=F64))  # fmt: skip

LINE = Formula(
    signature="wasserstein_1d(x, y)",
    truth=_line,
    inputs=[LINE_INSTANCE, (_draw(7, seed=0), 2 * _draw(7, seed=1) + 1)],
    instance=LINE_INSTANCE,
    mistakes=[
        Mistake(lambda x, y: (x - y).abs().mean(),
                "The points were paired in the order given; sort both first."),
        Mistake(lambda x, y: (x.sort().values - y).abs().mean(), "Sort y as well."),
        Mistake(lambda x, y: (x - y.sort().values).abs().mean(), "Sort x as well."),
        Mistake(lambda x, y: (x.sort().values - y.sort().values).abs().sum(),
                "A sum: each point has mass 1/n, so take the mean."),
        Mistake(lambda x, y: (x.sort().values - y.sort().values).square().mean(),
                "This is W_2 squared; the distance itself is asked for."),
        Mistake(lambda x, y: (x.sort().values - y.sort().values).square().mean().sqrt(),
                "This is W_2; for W_1 take absolute values."),
        Mistake(lambda x, y: (x.mean() - y.mean()).abs(),
                "The distance of the means is a lower bound; it misses shape and spread."),
        Mistake(lambda x, y: (x[:, None] - y).abs().mean(),
                "The mean over all pairs is the cost of the independent plan, not of the best."),
    ],
)  # fmt: skip


def _dual(cost: Tensor, a: Tensor, b: Tensor, f: Tensor) -> Tensor:
    return a @ f + b @ (cost - f[:, None]).min(0).values


def _market(n: int, m: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cost = distance_table(_draw(n, 2, seed=seed), _draw(m, 2, seed=seed + 1), power=2)
    return cost, _masses(n, seed + 2), _masses(m, seed + 3), _draw(n, seed=seed + 4)


DUAL_INSTANCE = (torch.tensor([[1.0, 4.0], [2.0, 3.0]], dtype=F64),
                 torch.tensor([0.25, 0.75], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64),
                 torch.tensor([1.0, 2.0], dtype=F64))  # fmt: skip

DUAL = Formula(
    signature="dual_value(cost, a, b, f)",
    truth=_dual,
    inputs=[DUAL_INSTANCE, _market(4, 3, 0), _market(3, 5, 10)],
    instance=DUAL_INSTANCE,
    mistakes=[
        Mistake(lambda c, a, b, f: a @ f + b @ (c - f[:, None]).max(0).values,
                "A price g_j must respect ALL the limits c_ij - f_i: take the smallest."),
        Mistake(lambda c, a, b, f: a @ f, "The income at the targets, b.g, is missing."),
        Mistake(lambda c, a, b, f: b @ (c - f[:, None]).min(0).values,
                "The income at the sources, a.f, is missing."),
        Mistake(lambda c, a, b, f: f.sum() + (c - f[:, None]).min(0).values.sum(),
                "Each price counts with the mass that is there: a.f + b.g."),
        Mistake(lambda c, a, b, f: a @ f + b @ (c + f[:, None]).min(0).values,
                "The sign of f: f_i + g_j <= c_ij gives g_j <= c_ij - f_i."),
        Mistake(lambda c, a, b, f: (a @ f + b @ (c - f[:, None]).min(0).values
                                    - exact_plan(c, a, b).value),
                "This is the gap to the cost of the best plan; the dual value itself is asked."),
    ],
)  # fmt: skip


def _one_round(cost: Tensor, a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    kernel = torch.exp(-cost / epsilon)
    u = a / kernel.sum(1)
    return u[:, None] * kernel * (b / (kernel.T @ u))


def _tiny() -> tuple[Tensor, Tensor, Tensor, float]:
    cost = torch.tensor([[900.0, 901.0], [901.0, 900.5]], dtype=F64)
    return cost, torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64), 1.0


def _plan(cost: Tensor, a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    return entropic(cost, a, b, epsilon).plan


SINKHORN = Formula(
    signature="sinkhorn(cost, a, b, epsilon)",
    truth=_plan,
    inputs=[(*_market(3, 4, 20)[:3], 1.0), (*_market(5, 3, 30)[:3], 2.0)],
    mistakes=[
        Mistake(_one_round, "One round is not enough: the row sums are off again. Repeat until "
                            "both agree."),
        Mistake(lambda c, a, b, e: torch.exp(-c / e) / torch.exp(-c / e).sum(),
                "exp(-c / epsilon) alone has the wrong row and column sums; rescale them in turn."),
        Mistake(lambda c, a, b, e: _plan(-c, a, b, e),
                "The sign of the cost is flipped: this plan prefers the long ways."),
        Mistake(lambda c, a, b, e: _plan(c, a, b, 1 / e),
                "You multiplied by epsilon where the cost is divided by it."),
        Mistake(lambda c, a, b, e: exact_plan(c, a, b).plan,
                "This is the exact plan, without entropy."),
        Mistake(lambda c, a, b, e: a[:, None] * b,
                "This is the independent plan, the limit of a large epsilon."),
        Mistake(lambda c, a, b, e: (_plan(c, a, b, e) * c).sum(),
                "This is the cost; the plan itself is asked for, (n, m)."),
        Mistake(lambda c, a, b, e: torch.softmax(-c / e, 1) * a[:, None],
                "Right row sums, but the column sums are not b."),
    ],
    extremes=[(_tiny(), "Right for moderate costs; at c / epsilon of 900 every exp(-c / epsilon) "
                        "is 0. Work with logarithms (torch.logsumexp), or subtract the smallest "
                        "cost first.")],
    tolerance=1e-3,
)  # fmt: skip


def _proof(coupling: Tensor, p_x: Tensor, p_z: Tensor, decoder: Tensor) -> Tensor:
    """q(z|x) = sum_y coupling(y|x) p(z|y)."""
    fibre = p_z[:, None] * one_hot(decoder, coupling.shape[1]).double()  # (codes, images)
    posterior = fibre / fibre.sum(0).clamp(min=1e-300)
    return coupling @ posterior.T / p_x[:, None]


def _story(n: int, images: int, codes: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    extra = torch.randint(images, (codes - images,), generator=draw)
    decoder = torch.cat([torch.arange(images), extra])  # every image has a code
    p_x, p_z = _masses(n, seed + 1), _masses(codes, seed + 2)
    p_y = p_z @ one_hot(decoder, images).double()
    cost = distance_table(_draw(n, 2, seed=seed + 3), _draw(images, 2, seed=seed + 4))
    return entropic(cost, p_x, p_y, 1.0).plan, p_x, p_z, decoder


def _even(coupling: Tensor, p_x: Tensor, p_z: Tensor, decoder: Tensor) -> Tensor:
    return _proof(coupling, p_x, torch.ones_like(p_z), decoder)


def _unsplit(coupling: Tensor, p_x: Tensor, p_z: Tensor, decoder: Tensor) -> Tensor:
    return coupling[:, decoder] / p_x[:, None]


PROOF = Formula(
    signature="proof_encoder(coupling, p_x, p_z, decoder)",
    truth=_proof,
    inputs=[_story(3, 2, 4, 40), _story(4, 3, 7, 50)],
    mistakes=[
        Mistake(lambda g, x, z, d: _proof(g, torch.ones_like(x), z, d),
                "This is the joint table of x and z; divide row x by p_x for q(z|x)."),
        Mistake(_unsplit, "Codes that give the same image must SHARE its mass, as p(z|y) does; "
                          "here each takes all of it, and rows add up to more than 1."),
        Mistake(_even, "Codes of one image share its mass in proportion to the prior p(z), not "
                       "evenly; otherwise q(z) is not p(z)."),
        Mistake(lambda g, x, z, d: z.expand(len(x), -1),
                "Every row is the prior: its codes are right, but the coupling is not used."),
        Mistake(lambda g, x, z, d: _proof(g, x, z, d).T,
                "Transposed: one row an example, one column a code."),
        Mistake(lambda g, x, z, d: g[:, d] / x[:, None] * z,
                "p(z|y) is p(z) divided by the mass of all codes of that image; the division is "
                "missing."),
    ],
)  # fmt: skip

TRANSPORT = {
    "wasserstein-1d": LINE,
    "dual-value": DUAL,
    "sinkhorn": SINKHORN,
    "proof-encoder": PROOF,
}
