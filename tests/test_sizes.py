"""The cost of models of full size: counts that can be made by hand."""

import pytest
import torch
from test_model import small_config
from torch import nn

from benchmarks.sizes import BYTES_PER_S, FLOPS_PER_S, PUBLISHED, Roofline, document, sizes, training_step
from perception.model.build import build


def test_a_product_and_a_sum_by_hand():
    """[512, 256] by [256, 128]: two operations a multiply-add; the sum of a gigabyte computes nothing that counts."""
    with Roofline() as product:
        torch.empty(512, 256, device="meta") @ torch.empty(256, 128, device="meta")
    assert product.flops == 2 * 512 * 256 * 128
    with Roofline() as total:
        x = torch.empty(2**28, device="meta")
        made = total.seconds
        x.view(2**14, 2**14).t()  # moves nothing
        assert total.seconds == made
        x + x
    assert total.flops == 0 and total.seconds - made == pytest.approx(3 * 2 * 2**28 / BYTES_PER_S)
    with Roofline() as large:
        torch.empty(8192, 8192, device="meta") @ torch.empty(8192, 8192, device="meta")
    assert large.seconds >= 2 * 8192**3 / FLOPS_PER_S


@pytest.mark.parametrize("decoder", [(), ("decoder.kind=attention", "decoder.memory=8")])
def test_the_stages_of_a_model(decoder):
    config = small_config("lidar.blocks=[1,1]", *decoder)
    rows = {row["stage"]: row for row in sizes(config)}
    parts = ["camera: images", "camera: view transform", "radar", "lidar", "fusion", "trunk", "head"]
    assert list(rows) == [*parts, *(["decoder"] if decoder else []), "all"]
    model = build(config)
    for key in ("gflop", "kept_mb", "ms", "parameters"):
        assert rows["all"][key] == pytest.approx(sum(row[key] for name, row in rows.items() if name != "all"))
    uncounted = sum(p.numel() for p in model.calibration.parameters())
    assert rows["all"]["parameters"] == sum(p.numel() for p in model.parameters()) - uncounted
    # Two convolutions of 3 x 3 from 16 to 16 channels on 32 x 32 cells, beside those to classes and box channels.
    head = 2 * 32 * 32 * (2 * 9 * 16 * 16 + 16 * (10 + 12 + 8))
    assert rows["head"]["gflop"] == pytest.approx(head / 1e9)


def test_what_is_kept_is_counted_once_and_without_weights():
    from benchmarks.sizes import _kept_bytes

    layer = nn.Linear(4, 4).to("meta")
    x = torch.empty(8, 4, device="meta", requires_grad=True)
    assert _kept_bytes(layer, lambda: layer(x) * layer(x)) == 3 * 4 * 8 * 4  # the input, and two results


def test_a_document_with_what_others_publish():
    rows = [{"stage": name, "parameters": 2e6, "gflop": 1.5, "kept_mb": 3.0, "ms": 0.25} for name in ("lidar", "all")]
    step = [{"frames": 4, "checkpointing": True, "gb": 1.26, "ms": 3.4}]
    text = document({"a.yaml": rows}, {"a.yaml": step})
    assert "| `a.yaml` | 4 | yes | 1.3 | 3 |" in text
    assert "| `a.yaml` | 2.00 M | 1.5 | 3 | 0.25 | - | - |" in text and "| lidar | 2.00 M | 1.5 | 3 | 0.25 |" in text
    assert all(model in text for model, *_ in PUBLISHED)


def test_a_training_step_by_hand():
    """Three frames of 1 GB in float32 and a million weights; clips of two frames: three forward passes and one more.

    Weights: 20 bytes each. Checkpointing keeps half and sees the images, a quarter of the time, once more.
    """
    config = small_config("train.batch_size=3", "train.clip=2")
    rows = [{"stage": "camera: images", "ms": 1.0}, {"stage": "all", "parameters": 10**6, "kept_mb": 1000.0, "ms": 4.0}]
    plain, checkpointed = training_step(config, rows, [*rows[:1], rows[1] | {"kept_mb": 500.0}])
    assert plain == {"frames": 3, "checkpointing": False, "gb": pytest.approx(0.02 + 1.5), "ms": 3 * 16.0}
    assert checkpointed == {"frames": 3, "checkpointing": True, "gb": pytest.approx(0.02 + 0.75), "ms": 3 * 17.0}
