"""Steps that lie evenly on a logarithmic axis."""

from __future__ import annotations

import math


def next_log_step(after: int, per_decade: float) -> int:
    """The first number above `after` among 0 and the rounded powers `10^(i / per_decade)`.

    So 0, 1, 2, 3, 4, 6, 7, 10, 13, 18, ... for 8 in a decade: dense where a network changes fast,
    and few in all.
    """
    if after < 0:
        return 0
    i = max(0, math.floor(per_decade * math.log10(after + 0.5)))
    while round(10 ** (i / per_decade)) <= after:
        i += 1
    return round(10 ** (i / per_decade))
