"""The matching loop of ``perception.eval.metric``, compiled on first use."""

from __future__ import annotations

import numpy as np

from perception.ops.compiled import compiled


@compiled
def match_nearest(offsets, truth, predictions, sample, thresholds):
    """int64 [thresholds, P]: for each prediction, in order, the nearest unmatched ground truth of its sample, or -1.

    offsets: int64 [S + 1] CSR offsets of the ground truth of each sample.  truth: [G, 2].  predictions: [P, 2].
    sample: int64 [P].  thresholds: metres, exclusive. Ties in distance go to the first ground truth.
    """
    count = len(thresholds)
    matches = np.full((count, len(predictions)), -1, np.int64)
    taken = np.zeros((len(truth), count), np.bool_)
    nearest, smallest = np.empty(count, np.int64), np.empty(count)
    for p in range(len(predictions)):
        nearest[:], smallest[:] = -1, thresholds
        for g in range(offsets[sample[p]], offsets[sample[p] + 1]):
            dx, dy = predictions[p, 0] - truth[g, 0], predictions[p, 1] - truth[g, 1]
            distance = np.sqrt(dx * dx + dy * dy)
            for t in range(count):
                if distance < smallest[t] and not taken[g, t]:
                    nearest[t], smallest[t] = g, distance
        for t in range(count):
            if nearest[t] >= 0:
                taken[nearest[t], t] = True
                matches[t, p] = nearest[t]
    return matches
