"""What layers are found for operations of torch, by what these compute."""

import pytest
import torch

from proxykernels.conversion.libraries.recognised import Attended, Mixed, Multiplied, Selected, View, recognised

C, TOKENS, HEADS = 24, 10, 4


def heads(x):
    """[N, C, tokens] as [N, heads, features, tokens]."""
    return x.unflatten(1, (HEADS, -1))


def thirds(x):
    return [heads(part) for part in x.chunk(3, 1)]


def spikformer(x):
    q, k, v = thirds(x)
    return v @ k.transpose(2, 3) @ q * 0.125


def with_tokens_first(x):
    q, k, v = (part.transpose(2, 3) for part in thirds(x))
    return (q @ (k.transpose(2, 3) @ v)).transpose(2, 3)


def by_einsum(q, k, v):
    return torch.einsum("nhdm,nhem,nhel->nhdl", heads(v), heads(k), heads(q))


def other_order(x):
    v, q, k = thirds(x)
    return v @ k.transpose(2, 3) @ q


X, PART, ONE = (C, TOKENS), (C // 2, TOKENS), (C, 1)


@pytest.mark.parametrize(
    "function, shapes, expected",
    [
        (lambda x: x.unflatten(1, (2, 3, 4)), [X], View),
        (spikformer, [X], Attended(HEADS, (0, 1, 2), 0.125)),
        (with_tokens_first, [X], Attended(HEADS, (0, 1, 2), 1.0)),
        (by_einsum, [(8, TOKENS)] * 3, Attended(HEADS, (0, 1, 2), 1.0)),
        (other_order, [X], Attended(HEADS, (1, 2, 0), 1.0)),
        (lambda x: x.chunk(2, 1)[1] * 2, [X], Selected),
        (lambda x: x.flip(1).mean(2), [X], Selected),
        (lambda x: heads(x).sum(2, keepdim=True), [X], Mixed),
        (lambda x: x.flatten(1).roll(3, 1), [(C,)], Selected),
        (lambda x, y: y * x[:, 12:], [X, PART], Multiplied),
        (lambda x, y: heads(x) * y.unflatten(1, (HEADS, 1)), [X, (HEADS, TOKENS)], Multiplied),
        (lambda y, x: heads(x) * y.unflatten(1, (HEADS, 1)), [(HEADS, 1), X], Multiplied),
        (lambda x, y: (x * y).sum(2), [X, X], Multiplied),
        (lambda x, y: torch.einsum("ncl,nc->ncl", x, y[:, :, 0]), [X, ONE], Multiplied),
    ],
)
def test_recognised(function, shapes, expected):
    found = recognised(lambda *x: function(*x).flatten(1), shapes)
    if isinstance(expected, type):
        assert isinstance(found, expected)
    else:
        assert isinstance(found, Attended)
        assert (found.heads, found.order) == (expected.heads, expected.order)
        assert found.scale == pytest.approx(expected.scale)


@pytest.mark.parametrize(
    "function, shapes",
    [
        (lambda x: x * x, [X]),
        (lambda x: x.softmax(1), [X]),
        (lambda x: x.flip(2), [X]),
        (lambda x: x + 1, [X]),
        (lambda x: x.relu(), [X]),
        (lambda x: x * torch.arange(TOKENS), [X]),
        (lambda x: x.cumsum(2), [X]),
        (lambda x, y: x + y, [X, X]),
        (lambda x, y: x * y.abs(), [X, X]),
        (lambda x, y: x.transpose(1, 2) @ y, [X, X]),
        (lambda x: spikformer(x) + 1e-2, [X]),
        (lambda x: torch.cat([spikformer(x)[:, 1:], spikformer(x)[:, :1]], 1), [X]),
        (lambda x: heads(x).softmax(2), [X]),
    ],
)
def test_what_layers_do_not_do_is_not_taken_for_them(function, shapes):
    assert recognised(lambda *x: function(*x).flatten(1), shapes) is None
