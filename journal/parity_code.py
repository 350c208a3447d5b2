"""The erasure code of parity files: any k of n shards give the others. Pure.

Reed-Solomon over GF(256) with the polynomial 0x11d: byte for byte, the shards are values of the one polynomial of
degree below k that goes through the k data shards. Shard 0 is its value at 0, shard i its value at 2^(i-1). Encoding
and restoring are the same thing, Lagrange's interpolation: from k known shards to any other. It is the code of zfec
(Rizzo, "Effective erasure codes for reliable computer communication protocols", 1997), which the tests hold it against.

A product with a constant is `bytes.translate`, a sum is the exclusive or of two long integers: both run at memory
speed, so no compiled extension is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

SHARDS_MAX = 256
_POLYNOMIAL = 0x11D


def shards(known: Mapping[int, bytes], wanted: Collection[int]) -> dict[int, bytes]:
    """The shards numbered `wanted`, from k known ones of equal length: every one of them counts, and k is their number.

    Raises ValueError for shards that are no 256, or of unequal length.
    """
    numbers = tuple(sorted(known))
    lengths = {len(shard) for shard in known.values()}
    if len(lengths) != 1 or not all(0 <= number < SHARDS_MAX for number in (*numbers, *wanted)):
        raise ValueError("shards have equal lengths and numbers below 256")
    (length,) = lengths
    sums = dict.fromkeys(wanted, 0)
    rows = {target: coefficients(numbers, target) for target in sums}
    tables = _products()
    for index, number in enumerate(numbers):
        shard = known[number]
        for target, row in rows.items():
            factor = row[index]
            if factor:
                product = shard if factor == 1 else shard.translate(tables[factor])
                sums[target] ^= int.from_bytes(product, "little")
    return {target: total.to_bytes(length, "little") for target, total in sums.items()}


@cache
def coefficients(numbers: tuple[int, ...], target: int) -> tuple[int, ...]:
    """What each of the shards `numbers` is multiplied by, so that their sum is shard `target`."""
    at = _point(target)
    points = [_point(number) for number in numbers]
    found = []
    for mine in points:
        above = below = 1
        for other in points:
            if other != mine:
                above, below = _times(above, at ^ other), _times(below, mine ^ other)
        found.append(_times(above, _inverse(below)))
    return tuple(found)


# -- GF(256) ----------------------------------------------------------------------------------------------------------


def _point(number: int) -> int:
    return _powers()[number - 1] if number else 0


@cache
def _powers() -> tuple[int, ...]:
    """2^0 to 2^254: every element but zero."""
    found, value = [], 1
    for _ in range(255):
        found.append(value)
        value <<= 1
        if value > 255:
            value ^= _POLYNOMIAL
    return tuple(found)


@cache
def _logarithms() -> dict[int, int]:
    return {value: exponent for exponent, value in enumerate(_powers())}


def _times(one: int, two: int) -> int:
    if not one or not two:
        return 0
    logarithms = _logarithms()
    return _powers()[(logarithms[one] + logarithms[two]) % 255]


def _inverse(value: int) -> int:
    return _powers()[-_logarithms()[value] % 255]


@cache
def _products() -> tuple[bytes, ...]:
    """A table for each constant: what every byte becomes when it is multiplied by it."""
    return tuple(bytes(_times(factor, value) for value in range(256)) for factor in range(256))
