"""What makes galaxies lopsided: spiral arms, dust lanes, clumps and tails.

Modulations act on the surface brightness of a disk in its own plane, at the radius in effective radii and at
the azimuth. Their mean over the azimuth is 1, so that the flux of the disk is kept, except for the dust lane.
"""

import math

import numpy as np

from .profiles import Blobs, Profile


def spiral_arms(
    radius: np.ndarray, azimuth: np.ndarray, *, arms: int, pitch: float, strength: float, phase: float
) -> np.ndarray:
    """Logarithmic spiral arms, exp(k cos(m (θ - ln R / tan p) - φ)) / I_0(k), fading in from the centre.

    Parameters
    ----------
    radius, azimuth
        Position in the plane of the disk, in effective radii and radians.
    arms
        Number of arms m.
    pitch
        Pitch angle p in radians.
    strength
        k; the crests are exp(2 k) times brighter than the troughs.
    phase
        φ in radians.

    Returns
    -------
    np.ndarray
        Factor on the surface brightness, of mean 1 over the azimuth.

    Examples
    --------
    >>> azimuth = np.arange(64) * 2 * np.pi / 64
    >>> factor = spiral_arms(np.ones(64), azimuth, arms=2, pitch=0.3, strength=0.8, phase=0.0)
    >>> round(float(factor.mean()), 6)
    1.0
    """
    softened = np.hypot(radius, 0.15)
    contrast = strength * _fade_in(radius)
    angle = arms * (azimuth - np.log(softened) / math.tan(pitch)) - phase
    return np.exp(contrast * np.cos(angle)) / np.i0(contrast)


def lopsidedness(radius: np.ndarray, azimuth: np.ndarray, *, strength: float, phase: float) -> np.ndarray:
    """More light on one side, 1 + a cos(θ - φ), fading in from the centre.

    Parameters
    ----------
    radius, azimuth
        Position in the plane of the disk, in effective radii and radians.
    strength
        a, below 1.
    phase
        φ, the bright side, in radians.

    Returns
    -------
    np.ndarray
        Factor on the surface brightness, of mean 1 over the azimuth.

    Examples
    --------
    >>> lopsidedness(np.full(2, 100.0), np.array([0.0, np.pi]), strength=0.5, phase=0.0).round(2)
    array([1.5, 0.5])
    """
    return 1 + strength * _fade_in(radius) * np.cos(azimuth - phase)


def dust_lane(radius: np.ndarray, azimuth: np.ndarray, *, offset: float, width: float) -> np.ndarray:
    """Light lost to a lane parallel to the major axis, exp(-½ ((R sin θ - d) / w)²); not of mean 1.

    Parameters
    ----------
    radius, azimuth
        Position in the plane of the disk, in effective radii and radians.
    offset, width
        Distance d of the lane from the centre and its width w in the plane of the disk, in effective radii.

    Returns
    -------
    np.ndarray
        Fraction of the light that is lost.

    Examples
    --------
    >>> dust_lane(np.array([0.3, 0.4]), np.full(2, np.pi / 2), offset=0.3, width=0.1).round(2)
    array([1.  , 0.61])
    """
    return np.exp(-0.5 * ((radius * np.sin(azimuth) - offset) / width) ** 2)


def modulated_flux(profile: Profile) -> float:
    """Flux of a profile whose modulations do not keep it, by quadrature over radius and azimuth.

    Parameters
    ----------
    profile
        Profile, of unit flux without its modulations.

    Returns
    -------
    float
        Its flux with them.

    Examples
    --------
    >>> round(modulated_flux(Profile(3.0, 1.0)), 3)
    1.0
    """
    radius = (np.arange(400) + 0.5) / 400 * 8
    azimuth = (np.arange(128) + 0.5) / 128 * 2 * math.pi
    u = profile.radius * radius[:, None] * np.cos(azimuth)
    v = profile.radius * radius[:, None] * np.sin(azimuth) * profile.axis_ratio
    cos, sin = math.cos(profile.angle), math.sin(profile.angle)
    values = profile.brightness(u * sin + v * cos, u * cos - v * sin)
    area = profile.radius**2 * profile.axis_ratio * radius[:, None] * (8 / 400) * (2 * math.pi / 128)
    return float(np.sum(values * area))


def in_plane(radius: np.ndarray, azimuth: np.ndarray, *, axis_ratio: float, angle: float) -> np.ndarray:
    """Offsets (..., 2), (y, x), of points in the plane of an inclined disk.

    Parameters
    ----------
    radius, azimuth
        Position in the plane, in pixels and radians.
    axis_ratio, angle
        Of the disk as seen.

    Returns
    -------
    np.ndarray
        Offsets on the sky in pixels.

    Examples
    --------
    >>> in_plane(np.array([2.0]), np.array([0.0]), axis_ratio=0.5, angle=0.0)
    array([[0., 2.]])
    """
    u, v = radius * np.cos(azimuth), axis_ratio * radius * np.sin(azimuth)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([u * sin + v * cos, u * cos - v * sin], -1)


def clumps(rng: np.random.Generator, disk: Profile, *, azimuth: np.ndarray, radius: np.ndarray) -> Blobs:
    """Star-forming clumps in a disk.

    Parameters
    ----------
    rng
        Source of randomness, for the sizes and the fluxes.
    disk
        The disk that they are in.
    azimuth, radius
        Position of each in the plane, in radians and in effective radii.

    Returns
    -------
    Blobs
        The clumps.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> clumps(rng, Profile(4.0, 1.0), azimuth=np.zeros(3), radius=np.ones(3)).offsets.shape
    (3, 2)
    """
    offsets = in_plane(radius * disk.radius, azimuth, axis_ratio=disk.axis_ratio, angle=disk.angle)
    sigmas = np.maximum(disk.radius * rng.uniform(0.05, 0.15, len(radius)), 0.2)
    fractions = rng.uniform(0.3, 1.0, len(radius))
    return Blobs(offsets, sigmas, fractions / fractions.sum())


def tail(disk: Profile, *, start: float, sweep: float, length: float, width: float) -> Blobs:
    """Tidal tail: an arc of debris that leaves the disk, wider and fainter outwards.

    Parameters
    ----------
    disk
        The disk that it leaves.
    start, sweep
        Azimuth at which it leaves and angle that it winds through, in radians.
    length, width
        Reach and width, in effective radii of the disk.

    Returns
    -------
    Blobs
        The tail, as a string of Gaussians.

    Examples
    --------
    >>> tail(Profile(4.0, 1.0), start=0.0, sweep=1.0, length=4.0, width=0.2).offsets.shape
    (24, 2)
    """
    along = np.linspace(0, 1, 24)
    radius = disk.radius * (1.2 + (length - 1.2) * along)
    axis_ratio = max(disk.axis_ratio, 0.5)
    offsets = in_plane(radius, start + sweep * along, axis_ratio=axis_ratio, angle=disk.angle)
    sigmas = np.maximum(disk.radius * width * (0.7 + 0.6 * along), 0.2)
    fractions = np.exp(-1.5 * along)
    return Blobs(offsets, sigmas, fractions / fractions.sum())


def _fade_in(radius: np.ndarray) -> np.ndarray:
    """0 at the centre, 1 far out, one half at 0.5 effective radii."""
    return radius**2 / (radius**2 + 0.25)
