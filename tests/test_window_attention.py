"""The two ways of window attention give the same; the loop that both are checked against is in test_fusion.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perception.ops.window_attention import _blocks, _compiled, window_attention


def inputs(batch=1, heads=2, head=4, height=5, width=6, maps=3, side=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    channels = heads * head
    key_value = [draw(batch, 2 * channels, height, width) for _ in range(maps)]
    return draw(batch, channels, height, width), key_value, draw(batch, heads, maps, side, side)


SIZE = st.integers(1, 9)


@given(st.integers(1, 2), st.integers(1, 3), SIZE, SIZE, st.integers(1, 3), st.sampled_from([1, 3, 5]))
def test_compiled_equals_blocks(batch, heads, height, width, maps, side):
    x = inputs(batch, heads, 4, height, width, maps, side)
    torch.testing.assert_close(_compiled(*x), _blocks(*x), rtol=1e-4, atol=1e-5)


def test_strips_meet():
    """More rows than a strip has."""
    x = inputs(heads=1, head=2, height=50, width=100, maps=1)
    torch.testing.assert_close(_compiled(*x), _blocks(*x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [_blocks, _compiled])
def test_a_map_that_a_sample_lacks_is_not_looked_at(way):
    query, key_value, bias = inputs(batch=2)
    bias[1, :, 0] = -torch.inf
    without = way(query[1:], key_value=[kv[1:] for kv in key_value[1:]], bias=bias[1:, :, 1:])
    torch.testing.assert_close(way(query, key_value, bias)[1:], without)


@pytest.mark.parametrize("way", [_blocks, _compiled])
def test_one_cell_sees_itself_only(way):
    """All nine tokens of the window are its own."""
    query, key_value, bias = inputs(height=1, width=1, maps=1)
    torch.testing.assert_close(way(query, key_value, bias), key_value[0][:, 8:])


def test_memory_layout_does_not_matter():
    query, key_value, bias = inputs()
    last = [kv.contiguous(memory_format=torch.channels_last) for kv in key_value]
    torch.testing.assert_close(
        _compiled(query.contiguous(memory_format=torch.channels_last), last, bias), _compiled(query, key_value, bias)
    )


def test_training_can_follow_inference():
    query, key_value, bias = inputs(height=7, width=3)
    with torch.inference_mode():
        _blocks(query, key_value, bias)  # keeps its index
    query.requires_grad_()
    window_attention(query, key_value, bias).sum().backward()
    assert query.grad.abs().sum() > 0
