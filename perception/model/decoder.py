"""The object decoder: objects, not only cells, attend to the sensors that are present.

Peaks of the dense heat map become queries (TransFusion, Bai et al., 2022). Each layer lets the queries attend to each
other, then each query to what the sensors show where its box is (``model.tokens``), refines its box, and solves its
velocity from the radial velocities measured inside of it (``model.radial_velocity``). An absent sensor has no tokens.

Boxes are refined in their own axes, so that all of it holds at any heading. At initialisation every refinement is zero:
the decoder then returns the boxes of the dense head, their velocities measured where they can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from perception.grid import BEVGrid
from perception.model.encoder import Encoded
from perception.model.head import CenterMaps
from perception.model.objects import LOG_SIZES, Objects, gathered
from perception.model.proposals import boxes_at, find_peaks
from perception.model.radial_velocity import solve_velocity
from perception.model.selection import detections_of
from perception.model.tokens import MemoryTokens, Tokens
from perception.sample import Detections
from perception.task import Task

_MARGIN_M = 0.5  # around a box, within which a radial velocity is taken to be of it: radars are that precise
_FUSED, _MEMORY = "fused features", "remembered objects"  # sources beside the sensors, of names that no sensor can have


@dataclass
class Refined:
    """What one layer says, as its losses want it: ``objects``, relative to the boxes ``before`` it.

    axis: [B, Q, 2] (sin, cos) of twice the yaw relative to that before.  sense: [B, Q] logit of that sense.
    """

    objects: Objects
    before: Objects
    axis: torch.Tensor
    sense: torch.Tensor


class Attention(nn.Module):
    """Multi-head attention of queries [..., N, D] to tokens [..., T, D]; zero where no token is valid."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, query: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """valid: bool [..., T]."""
        q = self.query(query).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in self.key_value(tokens).chunk(2, dim=-1)
        )
        logits = q @ key.transpose(-2, -1) / math.sqrt(q.shape[-1])
        logits = logits.masked_fill(~valid[..., None, None, :], -1e4)  # not infinite: there may be no token at all
        found = (logits.softmax(dim=-1) @ value).transpose(-3, -2).flatten(-2)
        return self.output(found) * valid.any(dim=-1)[..., None, None]


class Pooling(nn.Module):
    """In place of attention: the mean of each source's tokens, concatenated, zeros for what is absent; a baseline."""

    def __init__(self, width: int, sources: tuple[str, ...]):
        super().__init__()
        self.sources = sources
        self.mix = nn.Sequential(
            nn.Linear((1 + len(sources)) * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, query: torch.Tensor, tokens: Mapping[str, Tokens]) -> torch.Tensor:
        parts = [query]
        for name in self.sources:
            if name not in tokens:
                parts.append(torch.zeros_like(query))
                continue
            weight = tokens[name].valid[..., None].to(query.dtype)
            parts.append((tokens[name].features * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1))
        return self.mix(torch.cat(parts, dim=-1))


class DecoderLayer(nn.Module):
    """Objects, and tokens of each source -> refined objects.

    Args:
        sources: names of all token sources there may be.  attends: whether objects attend to the tokens, or pool them.
    """

    def __init__(self, width: int, heads: int, task: Task, sources: tuple[str, ...], attends: bool):
        super().__init__()
        self.sources, self.attends = sources, attends
        self.source = nn.Parameter(torch.zeros(len(sources), width))
        self.where = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width))
        self.place = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.token_norm = nn.LayerNorm(width)
        self.between = Attention(width, heads)
        self.across: nn.Module = Attention(width, heads) if attends else Pooling(width, sources)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        # Centre, size, axis, sense, velocity, weights of its prior; then classes, quality and attributes.
        self.widths = [3, 3, 2, 1, 2, 2, len(task.classes), 1, len(task.attributes)]
        self.heads = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, sum(self.widths)))
        self.trust = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        for zero in (*self.heads[-1].parameters(), *self.trust[-1].parameters()):
            nn.init.zeros_(zero)
        self.sense_of_motion = nn.Parameter(torch.tensor(1.0))  # logit for each m/s forward

    def forward(self, objects: Objects, tokens: Mapping[str, Tokens]) -> Refined:
        before = objects.detach()
        x = objects.features + self.place(torch.cat([before.center[..., :2] / 50.0, before.velocity / 5.0], dim=-1))
        normal = self.norms[0](x)
        x = x + self.between(normal, normal, before.valid)
        tokens = {name: self._placed(name, found, before) for name, found in tokens.items()}
        x = x + self._look(self.norms[1](x), tokens)
        x = x + self.feed_forward(self.norms[2](x))
        return self._refined(self.norms[3](x), before, tokens)

    def _placed(self, name: str, tokens: Tokens, objects: Objects) -> Tokens:
        """With the source and the position relative to the object, in metres and in halves of its size."""
        half = (objects.size / 2)[:, :, None].clamp(min=0.1)
        place = torch.cat([tokens.offset / 4.0, (tokens.offset / half).clamp(-4, 4)], dim=-1)
        features = self.token_norm(tokens.features) + self.source[self.sources.index(name)] + self.where(place)
        return Tokens(features, tokens.offset, tokens.valid, tokens.velocity)

    def _look(self, query: torch.Tensor, tokens: Mapping[str, Tokens]) -> torch.Tensor:
        if not self.attends:
            return self.across(query, tokens)
        features = torch.cat([found.features for found in tokens.values()], dim=2)
        valid = torch.cat([found.valid for found in tokens.values()], dim=2)
        return self.across(query[:, :, None], features, valid)[:, :, 0]

    def _refined(self, x: torch.Tensor, before: Objects, tokens: Mapping[str, Tokens]) -> Refined:
        parts = self.heads(x).float().split(self.widths, dim=-1)
        shift, log_size, axis, sense, velocity, prior, classes, quality, attributes = parts
        axis = torch.stack([axis[..., 0], axis[..., 1] + 1.0], dim=-1)
        velocity = before.to_box(before.velocity) + 5.0 * velocity
        velocity = self._measured(x, velocity, prior, before, tokens)
        sense = before.sense_logit + sense[..., 0] + self.sense_of_motion * velocity[..., 0].clamp(-5, 5)
        turn = 0.5 * torch.atan2(axis[..., 0], axis[..., 1]) + math.pi * (sense < 0)
        objects = Objects(
            before.center + before.to_ego(shift),
            (before.log_size + log_size).clamp(*LOG_SIZES),
            before.yaw + turn,
            before.to_ego(velocity),
            sense.abs(),
            before.label,
            before.prior,
            before.class_logits + classes,
            before.attribute_logits + attributes,
            before.quality_logit + quality[..., 0],
            x,
            before.valid,
        )
        return Refined(objects, before, axis, sense)

    def _measured(
        self,
        x: torch.Tensor,
        velocity: torch.Tensor,
        prior: torch.Tensor,
        before: Objects,
        tokens: Mapping[str, Tokens],
    ) -> torch.Tensor:
        """The velocity [B, Q, 2] in the axes of the box, corrected by what is measured inside of it."""
        radial = [(found, found.velocity) for found in tokens.values() if found.velocity is not None]
        if not radial:
            return velocity
        direction, speed, weight = [], [], []
        edge = (before.size / 2)[:, :, None, :2] + _MARGIN_M
        for found, velocities in radial:
            beam = before.to_box(before.center[..., :2])[:, :, None] + found.offset[..., :2]
            beam = F.normalize(beam, dim=-1)  # from the vehicle, whatever the sensor's place on it
            inside = (found.offset[..., :2].abs() < edge).all(dim=-1) & found.valid
            query = x[:, :, None].expand_as(found.features)
            trust = self.trust(torch.cat([query, found.features], dim=-1))[..., 0].float().sigmoid()
            direction.append(beam)
            speed.append((beam * velocities).sum(dim=-1))
            weight.append(2 * trust * inside)
        # Objects move along their axis: across it, what the network says counts for more.
        along, across = prior.clamp(-5, 5).unbind(dim=-1)
        strength = torch.stack([along - 1.5, across + 1.0], dim=-1).exp()
        return solve_velocity(
            torch.cat(direction, dim=2), torch.cat(speed, dim=2), torch.cat(weight, dim=2), velocity, strength
        )


class ObjectDecoder(nn.Module):
    """Dense output and what the sensors show -> objects, after each layer.

    Args:
        sensors: names, in the order of every axis S.  channels: of the trunk's features.
        queries: objects of a frame, at most.  fused: source of the trunk's tokens.
        sources: by sensor, see ``model.tokens``; of a sensor without one, only the fused features are seen.
        memory: objects of a frame that the next one remembers, 0 for none.  attends: see :class:`DecoderLayer`.
    """

    def __init__(
        self,
        grid: BEVGrid,
        task: Task,
        sensors: tuple[str, ...],
        channels: int,
        width: int,
        heads: int,
        layers: int,
        queries: int,
        fused: nn.Module,
        sources: Mapping[str, nn.Module],
        memory: int = 0,
        attends: bool = True,
    ):
        super().__init__()
        self.grid, self.task, self.sensors, self.queries = grid, task, sensors, queries
        self.memory = memory
        self.embed = nn.Linear(channels, width)
        self.kind = nn.Embedding(len(task.classes), width)
        nn.init.normal_(self.kind.weight, std=0.02)
        self.fused, self.sources = fused, nn.ModuleDict(sources)
        self.remembered = MemoryTokens(width) if memory else None
        self.recall = nn.Linear(width, width) if memory else None
        names = (_FUSED, *sources, *([_MEMORY] if memory else []))
        self.layers = nn.ModuleList(DecoderLayer(width, heads, task, names, attends) for _ in range(layers))

    def forward(
        self,
        maps: CenterMaps,
        features: torch.Tensor,  # [B, C, rows, columns], of which the maps were made
        encoded: Mapping[str, Encoded],
        sensor_valid: torch.Tensor,  # bool [B, S]
        motion: torch.Tensor | None,  # [B, S, 3] of model.registration
        memory: tuple[Objects, torch.Tensor] | None = None,  # see Memory.at
    ) -> list[Refined]:
        peaks = find_peaks(maps, self.grid, self.queries)
        at = gathered(features.flatten(2).transpose(1, 2), peaks.cell).float()
        objects = boxes_at(maps, self.grid, peaks, self.embed(at) + self.kind(peaks.label))
        if memory is not None and self.recall is not None:
            objects = objects.joined(replace(memory[0], features=self.recall(memory[0].features)))
        refined: list[Refined] = []
        for layer in self.layers:
            tokens = self._tokens(objects.detach(), features, encoded, sensor_valid, motion, memory)
            refined.append(layer(objects, tokens))
            objects = refined[-1].objects
        return refined

    def decode(self, refined: list[Refined], most: int, score_threshold: float) -> list[Detections]:
        """Detections per sample, highest score first.

        Args:
            most: number of detections of a sample, at most.  score_threshold: exclusive.

        Raises:
            PerceptionError: an object that is not finite.
        """
        objects, detections = refined[-1].objects, []
        scores, query = objects.scores.topk(min(2 * most, objects.prior.shape[1]), dim=1)  # some are suppressed
        best = objects.select(query)
        names = ("center", "size", "yaw", "velocity", "attribute_logits")
        for b, score in enumerate(scores.double().cpu().numpy()):
            found = {name: getattr(best, name)[b].double().cpu().numpy() for name in names}
            found |= {"score": score, "label": best.label[b].cpu().numpy()}
            detections.append(detections_of(found, self.task, self.grid, most, score_threshold))
        return detections

    def _tokens(
        self,
        objects: Objects,
        features: torch.Tensor,
        encoded: Mapping[str, Encoded],
        sensor_valid: torch.Tensor,
        motion: torch.Tensor | None,
        memory: tuple[Objects, torch.Tensor] | None,
    ) -> dict[str, Tokens]:
        still = objects.center.new_zeros(len(objects.center), 3)
        tokens = {_FUSED: self.fused(Encoded(features), objects, still)}
        for s, sensor in enumerate(self.sensors):
            if sensor in encoded and sensor in self.sources:
                seen = self.sources[sensor](encoded[sensor], objects, still if motion is None else motion[:, s])
                tokens[sensor] = replace(seen, valid=seen.valid & sensor_valid[:, s, None, None])
        if memory is not None and self.remembered is not None:
            tokens[_MEMORY] = self.remembered(*memory, objects)
        return tokens
