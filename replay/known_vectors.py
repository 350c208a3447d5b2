"""The vectors that models are known by: one sentence, as each model that ships with a value here encodes it.

Computed once with the original weights (model.safetensors of all-MiniLM-L6-v2, sha256 53aa5117…128d9db) and
sentence-transformers; stored as float16, whose rounding leaves the cosine at 1 within 1e-7.
"""

from __future__ import annotations

import base64
import struct

PROBE = "The journal remembers what the server forgets."

_FLOAT16 = {
    "all-MiniLM-L6-v2": (
        "byFRJJ6q8y5cJ1kZzKksrrIpTZzCHw0xl57kpLep7awkrDKZAyHRHi0f3SVtKeopqCCPqburKJjcoHKsCSm2KLGuHyusI9IdHaUP"
        "oR0qk6zZJOWdcKyeK2es6ogkp2ms/6kPKPgdaZzfqO8qTyhlKxGqnCjTrUAqFKs/qU2vuSsoHlIhQS3epfQhFaXqpIQpoRlEpxYo"
        "FizIng0rvCr1oZWkxq0SF3YqPyiQkMUruqckKWcewh8br8Epy6bwqDqjCRdxLh0niCRVLHctVaE3KQYlVa1kKHwpCirXJiSdSyxG"
        "LKArKimmIKcn+aVcrRUsFqqXJ3mf1B4Qr28fUCgAgMUlwynIp0qoqCqULFuo7KvVqIogUyInLgAoPimDpdAotqj/L24tfKiPKRMp"
        "fShHI/8qyCloJBwqfKK8KCyrOaGjpVWlBCwQLIosqKzUqz2onydtKEuvl6hJrbumjaJ8qiIrKSFrpaybkqQLnOCizymyK8mrPaUn"
        "Kp8tNKRdJnkhLyyQLMeljZ2/rFucUKeNqmoju6S6qmIowKcvrFajnqgMLICtr6r+DR2kqa7ILCqYBKsVGZconyaOLssq5KwAAPiu"
        "E61+qvQdPKJdrCuoCyqWqFyl2Cj/rO+rxCuYq20qtqGUre6pai0qKO0p1CqQLmUpkiisJLWoDadjsLgkZ62XoO4arpMpqacohSuM"
        "pRIlGy0YLHWxAh5ZpkEYGKrzLjktHiRvIkms0iu8qBat1CtUnTMV/5sXl50kNSVXrIUiSJP3Jagi/CimqwIfTynwKnmrPKo4MCIo"
        "y66fpW6qMZ/tqL4sBK2BJTksPaozIKup46nqq+ag7iEaqyMq8awAgEusVibHKMEn/C8MrHwsAy44qC0qRyY3JYKogyBtJRisCC4E"
        "pu6pLKKYHfGgtyYYJF8nMaqTJr4pHanwLWCo56b6JWSqEa4FKr8o+J7CpuEl0KZNqSIp7iwal3gZmKozI+soYKxupBAidiznKzQu"
        "Cqy9J38kkyPPpCktGCQwpQir"
    ),
}


def known_vector(name: str) -> tuple[float, ...] | None:
    """What the model of this name makes of `PROBE`; None for a model that is not known here."""
    text = _FLOAT16.get(name)
    if text is None:
        return None
    packed = base64.b64decode(text)
    return struct.unpack(f"<{len(packed) // 2}e", packed)
