"""Per-pixel light and texture, compiled with numba; imported only when a camera renders.

All light is linear; positions are world metres.
"""

from __future__ import annotations

import math

import numpy as np

from perception.ops.compiled import compiled

_MATTE, _PAINT, _GLASS, _ASPHALT, _CONCRETE, _GRASS, _FACADE, _FOLIAGE = 0, 1, 2, 4, 5, 6, 7, 8
_HEADLIGHT, _TAILLIGHT, _RETRO, _MARKING, _LAMP = 9, 10, 11, 12, 13


@compiled
def hash_01(a, b, c):
    """Three integers to a number in [0, 1)."""
    h = (a * 73856093) ^ (b * 19349663) ^ (c * 83492791)
    h = (h ^ (h >> 13)) * 1274126177 & 0x7FFFFFFF
    h = (h ^ (h >> 16)) * 668265263 & 0x7FFFFFFF
    return ((h ^ (h >> 11)) & 0xFFFF) / 65536.0


@compiled
def value_noise(x, y, salt):
    """Smooth value noise in [0, 1]."""
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = hash_01(i, j, salt) * (1 - u) + hash_01(i + 1, j, salt) * u
    high = hash_01(i, j + 1, salt) * (1 - u) + hash_01(i + 1, j + 1, salt) * u
    return low * (1 - v) + high * v


@compiled
def _texture(material, x, y, z, nx, ny, nz, distance):
    """Brightness factor of a surface point, and whether it is a window: 0 no, 1 dark, 2 lit at night."""
    fade = math.exp(-distance / 30.0)
    if material == _ASPHALT:
        return 0.8 + 0.25 * value_noise(0.35 * x, 0.35 * y, 1) + fade * 0.35 * (value_noise(9 * x, 9 * y, 2) - 0.5), 0
    if material == _CONCRETE:
        slab = 0.0
        if nz > 0.5 and ((x % 1.5) < 0.04 or (y % 1.5) < 0.04):
            slab = 0.25 * fade
        return 0.85 + 0.2 * value_noise(0.6 * x, 0.6 * y + z, 3) + fade * 0.15 * (
            value_noise(12 * x + z, 12 * y, 4) - 0.5
        ) - slab, 0
    if material == _GRASS:
        return 0.6 + 0.4 * value_noise(0.5 * x, 0.5 * y, 5) + fade * 0.6 * (value_noise(14 * x, 14 * y, 6) - 0.5), 0
    if material == _FOLIAGE:
        return 0.6 + 0.5 * value_noise(3 * x + z, 3 * y + 2 * z, 7) + fade * 0.5 * (
            value_noise(14 * x + 5 * z, 14 * y, 8) - 0.5
        ), 0
    if material == _FACADE and abs(nz) < 0.5:
        along = -ny * x + nx * y
        column, floor = math.floor(along / 2.6), math.floor(z / 3.1)
        u, v = along / 2.6 - column, z / 3.1 - floor
        low, high = (0.1, 0.72) if floor < 1 else (0.28, 0.8)
        side = 0.08 if floor < 1 else 0.24
        if side < u < 1 - side and low < v < high:
            return 1.0, 2 if hash_01(int(column), int(floor), 11) < 0.35 else 1
        brick = 0.06 if (z % 0.3) < 0.05 else 0.0
        return 0.88 + 0.2 * value_noise(1.2 * along, 1.2 * z, 9) - brick * fade * 3, 0
    return 1.0, 0


@compiled
def _sky(dz, dx, dy, top, horizon, cloud, channel):
    up = max(dz, 0.0)
    value = horizon[channel] + (top[channel] - horizon[channel]) * (1 - math.exp(-4.0 * up))
    if cloud > 0 and up > 0.02:
        cover = value_noise(2.5 * dx / (up + 0.15) + 40, 2.5 * dy / (up + 0.15) + 40, 21)
        cover = 0.6 * cover + 0.4 * value_noise(7 * dx / (up + 0.15) + 90, 7 * dy / (up + 0.15) + 90, 22)
        value += cloud * max(cover - 0.5, 0.0) * 2.2 * (horizon[channel] + 0.1)
    return value


@compiled
def shade(
    distance,
    triangle,
    directions,
    starts,
    color,
    material,
    normals,
    shadow,
    stride,
    width,
    sun,
    sun_direction,
    ambient,
    sky_top,
    sky_horizon,
    cloud,
    extinction,
    wet,
    night,
    lamps,
    beam_place,
    beam_direction,
    glass,
    tint,
):
    """Linear RGB [P, 3] of every pixel.

    distance [P] metres, triangle [P], directions [P, 3] unit and starts [P, 3] of the rays; color [T, 3], material [T],
    normals [T, 3] of the triangles; shadow [ceil(H / stride), ceil(W / stride)] is 1 where the sun is hidden, sampled
    at every ``stride``-th pixel; lamps [L, 3] street lamps; beam_* the ego vehicle's head lights; glass the share of
    light that panes reflect head-on; tint [P, 3] what multiplies the colour of each pixel, [0, 3] for nothing; the
    rest as in :class:`perception.sim.weather.Weather`.
    """
    count = len(distance)
    image = np.empty((count, 3), np.float32)
    for p in range(count):
        dx, dy, dz = directions[p, 0], directions[p, 1], directions[p, 2]
        index = triangle[p]
        if index < 0:
            for c in range(3):
                image[p, c] = _sky(dz, dx, dy, sky_top, sky_horizon, cloud, c)
            continue
        t = distance[p]
        x, y, z = starts[p, 0] + t * dx, starts[p, 1] + t * dy, starts[p, 2] + t * dz
        nx, ny, nz = normals[index, 0], normals[index, 1], normals[index, 2]
        facing = nx * dx + ny * dy + nz * dz
        if facing > 0:
            nx, ny, nz, facing = -nx, -ny, -nz, -facing
        kind = material[index]
        factor, window = _texture(kind, x, y, z, nx, ny, nz, t)
        row, col = p // width, p % width
        lit = 1.0 - shadow[row // stride, col // stride]
        sunny = max(nx * sun_direction[0] + ny * sun_direction[1] + nz * sun_direction[2], 0.0) * lit
        hemisphere = 0.65 + 0.35 * nz
        rx, ry, rz = dx - 2 * facing * nx, dy - 2 * facing * ny, dz - 2 * facing * nz
        glint = max(rx * sun_direction[0] + ry * sun_direction[1] + rz * sun_direction[2], 0.0) * lit
        fresnel = 0.04 + 0.96 * (1 + facing) ** 5
        shiny = 0.0
        if kind == _GLASS or window > 0:
            shiny = glass + 0.75 * fresnel
        elif kind == _PAINT:
            shiny = 0.06 + 0.5 * fresnel
        elif wet > 0 and kind == _ASPHALT:
            shiny = wet * (0.1 + 0.9 * fresnel)
        lamp = 0.0
        beam = 0.0
        if night > 0:
            for k in range(len(lamps)):
                ax, ay, az = lamps[k, 0] - x, lamps[k, 1] - y, lamps[k, 2] - z
                squared = ax * ax + ay * ay + az * az
                if squared < 900.0:
                    toward = (ax * nx + ay * ny + az * nz) / math.sqrt(squared)
                    lamp += max(toward, 0.0) * 9.0 / (squared + 12.0)
            ax, ay, az = x - beam_place[0], y - beam_place[1], z - beam_place[2]
            squared = ax * ax + ay * ay + az * az + 1e-6
            root = math.sqrt(squared)
            along = (ax * beam_direction[0] + ay * beam_direction[1] + az * beam_direction[2]) / root
            if along > 0.8:
                cone = min((along - 0.8) * 8.0, 1.0)
                beam = cone * 45.0 / (squared + 60.0) * max(0.15, -(ax * nx + ay * ny + az * nz) / root)
                if kind == _RETRO or kind == _MARKING:
                    beam *= 4.0
        for c in range(3):
            albedo = color[index, c] * factor
            if len(tint) > 0:
                albedo *= tint[p, c]
            if window > 0:
                albedo = 0.02
            light = ambient[c] * hemisphere + sun[c] * sunny
            light += lamp * (1.0, 0.78, 0.5)[c] + beam * (0.95, 1.0, 1.0)[c]
            value = albedo * light
            if shiny > 0:
                ground = 0.35 * (ambient[c] + sun[c] * 0.4) * 0.4
                mirror = ground if rz < 0 else _sky(rz, rx, ry, sky_top, sky_horizon, 0.0, c)
                value = value * (1 - 0.7 * shiny) + shiny * mirror
                if kind != _ASPHALT:
                    value += shiny * sun[c] * glint**60 * 3.0
            if night > 0:
                if kind == _HEADLIGHT:
                    value += 2.5 * max(0.15, -facing) * color[index, c]
                elif kind == _TAILLIGHT:
                    value += 0.9 * color[index, c]
                elif kind == _LAMP:
                    value += 2.0 * color[index, c]
                elif window == 2:
                    value += 0.22 * (1.0, 0.8, 0.5)[c]
            elif kind == _HEADLIGHT or kind == _TAILLIGHT or kind == _LAMP:
                value += 0.25 * color[index, c]
            clear = math.exp(-extinction * t)
            image[p, c] = value * clear + sky_horizon[c] * (1 - clear)
    return image


@compiled
def develop(linear, noise, gain, salt):
    """Exposure, gamma 2, sensor noise and rounding: linear [P, 3] to uint8 [P, 3]. Darkness is noisier."""
    count = len(linear)
    image = np.empty((count, 3), np.uint8)
    for p in range(count):
        for c in range(3):
            light = max(linear[p, c] * gain, 0.0)
            value = math.sqrt(light / (1.0 + 0.18 * light))
            grain = hash_01(p, c, salt) + hash_01(p, c + 5, salt) + hash_01(p, c + 11, salt) - 1.5
            value += 2.0 * noise * grain * (1.2 - 0.5 * min(value, 1.0))
            image[p, c] = np.uint8(min(max(value * 255.0 + 0.5, 0.0), 255.0))
    return image
