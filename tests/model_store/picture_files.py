"""One smooth picture in every type and mode that is read."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 96, 72


def colours(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """RGB: red falls to the right, green grows downwards, blue is darkest in one corner."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 230 - 200 * x / width, 20 + 200 * y / height
    blue = 255 * np.hypot(x / width, y / height) / np.sqrt(2)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def see_through() -> Image.Image:
    """RGBA: the left half is opaque, the right half fades to nothing."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, WIDTH // 2 :] = np.linspace(255, 0, WIDTH - WIDTH // 2).astype(np.uint8)
    image = colours()
    image.putalpha(Image.fromarray(alpha))
    return image


def save(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def palette_with_transparency() -> bytes:
    image = colours().quantize(32)
    image.putpixel((0, 0), 5)
    return save(image, "PNG", transparency=5)


def sixteen_bits() -> bytes:
    """Grey of 16 bits: the low byte is noise that must not matter."""
    grey = np.asarray(colours().convert("L"), np.uint16)
    noise = np.random.default_rng(0).integers(0, 256, grey.shape, np.uint16)
    return save(Image.fromarray(grey * 256 + noise), "PNG")


def animated(format: str) -> bytes:
    """The colours first, then black."""
    black = Image.new("RGB", (WIDTH, HEIGHT))
    return save(colours(), format, save_all=True, append_images=[black], duration=100)


# Each with the picture that it shows, before it lies on white.
FILES: dict[str, tuple[Callable[[], bytes], Callable[[], Image.Image]]] = {
    "jpeg": (lambda: save(colours(), "JPEG", quality=95), colours),
    "jpeg-progressive": (lambda: save(colours(), "JPEG", quality=95, progressive=True), colours),
    "jpeg-grey": (
        lambda: save(colours().convert("L"), "JPEG", quality=95),
        lambda: colours().convert("L"),
    ),
    "jpeg-cmyk": (lambda: save(colours().convert("CMYK"), "JPEG", quality=95), colours),
    "png": (lambda: save(colours(), "PNG"), colours),
    "png-1": (lambda: save(colours().convert("1"), "PNG"), lambda: colours().convert("1")),
    "png-grey": (lambda: save(colours().convert("L"), "PNG"), lambda: colours().convert("L")),
    "png-grey-alpha": (
        lambda: save(see_through().convert("LA"), "PNG"),
        lambda: see_through().convert("LA"),
    ),
    "png-palette": (lambda: save(colours().quantize(64), "PNG"), lambda: colours().quantize(64)),
    "png-palette-alpha": (
        palette_with_transparency,
        lambda: Image.open(io.BytesIO(palette_with_transparency())).convert("RGBA"),
    ),
    "png-alpha": (lambda: save(see_through(), "PNG"), see_through),
    "png-16": (sixteen_bits, lambda: colours().convert("L")),
    "webp": (lambda: save(colours(), "WEBP", quality=95), colours),
    "webp-lossless": (lambda: save(colours(), "WEBP", lossless=True), colours),
    "webp-alpha": (lambda: save(see_through(), "WEBP", lossless=True, exact=True), see_through),
    "webp-animated": (lambda: animated("WEBP"), colours),
    "gif": (lambda: save(colours(), "GIF"), lambda: colours().quantize(256)),
    "gif-animated": (lambda: animated("GIF"), lambda: colours().quantize(256)),
    "bmp": (lambda: save(colours(), "BMP"), colours),
    "bmp-palette": (lambda: save(colours().quantize(64), "BMP"), lambda: colours().quantize(64)),
}


def on_white(image: Image.Image) -> Pixels:
    """The whole picture as uint8 RGB, by the definition of "over"."""
    rgba = np.asarray(image.convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    return np.asarray(np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)), np.uint8)


def reference(pixels: Pixels, size: int, fraction: float) -> npt.NDArray[np.float64]:
    """[size, size, 3]: tf.image.central_crop's slice, then each channel resized on its own."""
    height, width = pixels.shape[:2]
    top, left = int((height - height * fraction) / 2), int((width - width * fraction) / 2)
    cropped = pixels[top : height - top, left : width - left]
    resized = Image.fromarray(cropped).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float64)
