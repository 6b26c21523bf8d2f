"""Mistakes of the kinds that cost most in training, by name; the tests must notice every one of them."""

from __future__ import annotations

from mutation.runner import ROOT, noticed

LOSSES, TRAINER = "perception/train/losses.py", "perception/train/trainer.py"
INITIALISE, PASTE = "perception/train/initialise.py", "perception/train/paste.py"
OBJECTS = "perception/train/objects.py"
OPTIM, BATCHES = "perception/train/optim.py", "perception/train/batches.py"
HEAD, FUSION = "perception/model/head.py", "perception/model/fusion.py"
SELECTION = "perception/model/selection.py"
TARGETS, DEPTH = "perception/train/targets.py", "perception/train/depth_loss.py"
AUGMENT, FLIPS = "perception/train/augment.py", "perception/eval/flips.py"
REGISTRATION, CAMERA = "perception/model/registration.py", "perception/model/camera.py"
MISTAKES = (  # name, file, text that stands there once, text in its place, tests
    ("a loss weight is zero", LOSSES, "_BOX_WEIGHT, _ATTRIBUTE_WEIGHT = 0.5, 0.2",
     "_BOX_WEIGHT, _ATTRIBUTE_WEIGHT = 0.5, 0.0", "losses"),
    ("gradients are not clipped", TRAINER, "self.config.train.clip_norm)", 'float("inf"))', "optim"),
    ("the learning rate is constant", TRAINER, 'group["peak_lr"] * self.rate_factor * one_cycle(',
     'group["peak_lr"] * self.rate_factor + 0 * one_cycle(', "optim"),
    ("gradients of several batches are summed", TRAINER, '(found["total"] / len(batches)).backward()',
     'found["total"].backward()', "train"),
    ("the network's random numbers depend on the process", TRAINER, "number * self.processes + self.rank",
     "number", "train"),
    ("objects are pasted into others", PASTE, "_overlap(found.box, boxes).any()", "False", "paste"),
    ("the image under a pasted object stays", PASTE, "data[sensor] = {name: _with_patches",
     "data[sensor] = there or {name: _with_patches", "paste"),
    ("points that a pasted object takes the place of stay", PASTE, "free &= ~in_box", "free |= in_box", "paste"),
    ("old points of a cut object are looked for where it is now", OBJECTS,
     "points[:, :2] += cloud.points[:, age, None] * box.velocity[0]", "pass", "paste"),
    ("classes have the shares that they have", BATCHES,
     "if self.by_class is None:\n            return self", "if True:\n            return self", "schedule"),
    ("frames of all shards are mixed", BATCHES, "if self.shards is not None:\n", "if False:\n", "shards"),
    ("statistics of the batch normalisation are trained", CAMERA, "if self.pretrained and isinstance",
     "if False and isinstance", "optim"),
    ("the saved weights are not the average", TRAINER, "self.model.files(self.ema.state)",
     "self.model.files(self.model.state_dict())", "optim"),
    ("no sensors are dropped", BATCHES, "rng.random() >= self.config.sensor_dropout", "True", "schedule"),
    ("frozen parts are trained", INITIALISE, "requires_grad_(False)", "requires_grad_(True)", "optim"),
    ("the radius of the heat map is that of another case", TARGETS,
     "(2 * total - np.sqrt(4 * total**2 - 16 * (1 - min_overlap) * length * width)) / 8",
     "(total - np.sqrt(total**2 - 4 * length * width * (1 - min_overlap) / (1 + min_overlap))) / 2", "head"),
    ("the suppression radius is that of cars", SELECTION, "np.square(radius_m)[boxes.label]",
     "np.square(radius_m)[0 * boxes.label]", "head"),
    ("norms and biases decay", OPTIM, "if parameter.ndim > 1 else 0.0", "if parameter.ndim > 0 else 0.0", "optim"),
    ("velocities are decoded without their scale", HEAD, "velocity=velocity * VELOCITY_SCALE_MPS",
     "velocity=velocity", "head"),
    ("the graph has no priors", REGISTRATION, "prior.clamp(-6, 6).exp())", "torch.ones_like(prior))", "registration"),
    ("absent sensors are attended to", FUSION,
     "bias.masked_fill(~sensor_valid[:, None, :, None, None], -torch.inf)", "bias", "fusion"),
    ("depth bins are off by one", DEPTH, "* bins).long()", "* bins).add(1).long()", "losses"),
    ("a rotated image is that of a camera rolled the other way", AUGMENT, "roll = image.roll.inverse()",
     "roll = image.roll", "augment"),
    ("early layers of a backbone learn faster", OPTIM, "len(blocks) - reached", "reached", "optim"),
    ("what is found in a mirror image stays there", FLIPS, "Detections(flip.boxes(each.boxes), each.scores)",
     "Detections(each.boxes, each.scores)", "flips"),
    ("boxes without points are trained on", BATCHES, "boxes=_trained_on(frame.boxes)", "boxes=frame.boxes",
     "schedule"),
)  # fmt: skip


def patched(file: str, old: str, new: str) -> str:
    """The source of a file with ``new`` in place of ``old``, which must stand there once."""
    source = (ROOT / file).read_text()
    if source.count(old) != 1:
        raise SystemExit(f"{file}: '{old}' was expected once, found {source.count(old)} times")
    return source.replace(old, new)


def check() -> int:
    """Print which mistakes are noticed; 1 where one is not."""
    missed = 0
    for tests in sorted({tests for *_, tests in MISTAKES}):
        if noticed({}, [f"tests/test_{tests}.py"]):
            raise SystemExit(f"tests/test_{tests}.py: must pass before it is run on mistakes")
    for name, file, old, new, tests in MISTAKES:
        caught = noticed({ROOT / file: patched(file, old, new)}, [f"tests/test_{tests}.py"])
        print(f"{'noticed' if caught else 'MISSED':<8} {name}", flush=True)
        missed += not caught
    print(f"{len(MISTAKES) - missed} of {len(MISTAKES)} noticed")
    return int(missed > 0)
