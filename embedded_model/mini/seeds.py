"""Seeds of random numbers that have nothing to do with each other."""

from zlib import crc32


def seed_of(purpose: str, number: int) -> int:
    """Generators of equal seeds give equal numbers, which would tie the noise level of a row to its guidance."""
    return crc32(f"{purpose} {number}".encode())
