# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How far one band goes
#
# A blend in a single image, no colours, no iterations: can its sources be told apart? A simple idea goes a long way.
# **Most galaxies look the same when they are turned by half a turn.** So take every pixel, look at the one opposite,
# across the source's centre, and keep the fainter of the two: what sticks out on one side is probably somebody else.
# That is a *template*. Then divide each pixel of the image among the sources, in proportion to their templates.
#
# It is what the Sloan survey did, and what Rubin's pipelines do with single exposures. It is quick, no light is lost,
# and it needs no PSF but for stars. This notebook shows where it works, where it does not, and what colours add. The
# scene is simulated, so that we know the truth.

# %%
import time

import numpy as np
from matplotlib.figure import Figure

import jaxdeblend as jd
from jaxdeblend.simulate.population import Component, TrueSource
from jaxdeblend.simulate.profiles import Profile, point
from jaxdeblend.simulate.render import draw
from jaxdeblend.simulate.scene import expose
from jaxdeblend.simulate.survey import make_survey, moffat_stamp
from jaxdeblend.view import asinh_norm, rgb

# %% [markdown]
# ## The data
#
# Eight sources in four bands; two of them nobody has told us about. The PSF is a little lopsided, as real ones are.

# %%
bands, shape = ("g", "r", "i", "z"), (64, 88)


def lopsided(fwhm):
    """A PSF with a weak tail to one side."""
    stamp = moffat_stamp(fwhm, edge=41)
    return stamp + 0.12 * np.roll(stamp, (1, 2), axis=(0, 1))


survey = make_survey(bands, psf=np.stack([lopsided(fwhm) for fwhm in (4.3, 3.9, 3.7, 3.6)]))


def galaxy(magnitudes, radius, axis_ratio, angle, bulge=0.3, redder=0.5):
    """A disk with a bulge that is redder in g - i."""
    flux = survey.flux(np.array(magnitudes))
    share = bulge * 10 ** (-0.4 * redder * np.array([1.0, 0.4, 0.0, -0.2]))
    disk, middle = Profile(radius, 1.0, axis_ratio, angle), Profile(0.4 * radius, 4.0, 0.9, angle)
    return TrueSource("galaxy", flux, radius, (Component(disk, flux * (1 - share)), Component(middle, flux * share)))


def star(magnitudes):
    """A point."""
    flux = survey.flux(np.array(magnitudes))
    return TrueSource("star", flux, 0.0, (Component(point(), flux),))


sources = {
    (19.3, 18.7): galaxy((21.6, 20.5, 20.0, 19.7), 4.2, 0.75, 0.6, 0.5, 0.3),
    (47.6, 19.2): galaxy((22.3, 21.3, 20.9, 20.7), 3.0, 0.8, 2.4),
    (41.2, 27.8): galaxy((21.7, 21.2, 21.0, 20.9), 5.0, 0.55, 0.2, 0.15),
    (31.3, 64.8): galaxy((23.6, 22.4, 21.8, 21.5), 2.2, 0.9, 0.0),
    (26.4, 58.2): galaxy((21.8, 21.2, 20.9, 20.8), 2.6, 0.7, 0.9),
    (36.4, 71.3): galaxy((21.6, 21.3, 21.1, 21.0), 2.8, 0.8, 2.0),
    (13.7, 40.4): star((23.9, 23.4, 23.1, 23.0)),
}
unknown = {
    (22.6, 28.4): galaxy((23.0, 22.7, 22.5, 22.4), 1.6, 0.9, 0.0),
    (36.8, 36.3): galaxy((22.6, 22.5, 22.4, 22.4), 1.5, 0.8, 1.0),
}
centers = np.array(list(sources))
truth = np.stack([draw(source, np.array(center), shape, survey) for center, source in sources.items()])
hidden = sum(draw(source, np.array(center), shape, survey) for center, source in unknown.items())
images, variance = expose(np.random.default_rng(2), truth.sum(axis=0) + hidden, survey)

# %%
r = bands.index("r")
colours, grey = asinh_norm(images, variance), asinh_norm(images[r : r + 1], variance[r : r + 1])


def show(axes, picture, title="", **style):
    """Draw a picture without ticks: one band in grey, or a colour picture as it is."""
    if picture.ndim == 2:
        picture = grey(picture / grey.scales[0])
        style = {"cmap": "magma", "vmin": 0.0, "vmax": 1.0} | style
    axes.imshow(picture, origin="lower", interpolation="nearest", **style)
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def mark(axes, numbers, color="white"):
    """Number the sources."""
    for number in numbers:
        y, x = centers[number]
        axes.plot(x, y, "+", color=color, ms=5, mew=0.8)
        axes.annotate(str(number), (x, y), (3, 3), textcoords="offset points", color=color, fontsize=8)


figure = Figure(figsize=(10, 3.9), layout="constrained")
panels = figure.subplots(1, 2)
show(panels[0], rgb(images, bands=bands, norm=colours), "all bands")
show(panels[1], images[r], "r alone")
for axes in panels:
    mark(axes, range(len(centers)))
figure

# %% [markdown]
# Seven sources are known. On the left one sees more: two blue spots, one beside source 0, one beside source 2, that no
# number stands for. In r alone they are hardly more than bumps.
#
# ## A template by hand
#
# Source 0 is bright, and has no neighbour that is known. Cut out a square about its pixel, turn it by half a turn, keep
# the smaller of both. That is all:

# %%
y, x = np.rint(centers[0]).astype(int)
cutout = images[r, y - 15 : y + 16, x - 15 : x + 16]
template = np.minimum(cutout, cutout[::-1, ::-1])

figure = Figure(figsize=(10, 2.9), layout="constrained")
pictures = {"source 0": cutout, "turned": cutout[::-1, ::-1], "the smaller": template, "left over": cutout - template}
for axes, (title, picture) in zip(figure.subplots(1, 4), pictures.items(), strict=True):
    show(axes, picture, title)
figure

# %% [markdown]
# The unknown spot on the right is gone from the template, and stands in what is left over. So does a crescent about
# the core: the galaxy does not sit on the middle of its pixel, and its PSF is lopsided. Noise is left over, too: of two
# noisy pixels the smaller one is too faint, on average.
#
# `deblend_single_band` does better on the first two counts. It turns the image about the sub-pixel position, smooths
# the template, makes it fall outwards, and then gives *all* the light of a pixel away, in proportion to the templates.

# %%
psf = jd.ImagePSF(survey.psf[r])
deblend = {"image": images[r], "variance": variance[r], "psf": psf, "centers": centers}
began = time.perf_counter()
result = jd.deblend_single_band(**deblend)
compiled = time.perf_counter()
result = jd.deblend_single_band(**deblend)
print(f"{compiled - began:.1f} s to compile, then {1e3 * (time.perf_counter() - compiled):.0f} ms")

table = result.table()
table["true flux"], table["error"] = truth[:, r].sum(axis=(1, 2)), table["flux"] / truth[:, r].sum(axis=(1, 2)) - 1
table["error"].format, table["flags"].format = "+.1%", lambda flags: jd.SingleBandFlag(int(flags)).name or "-"
for name in ("x", "y", "flux", "flux_err", "true flux"):
    table[name].format = ".1f" if name in "xy" else ".0f"
print("\n".join(table["id", "x", "y", "flux", "flux_err", "true flux", "error", "flags"].pformat(max_width=-1)))


# %%
def templates_and_children(result, numbers, image):
    """A row of pictures for each source: image, template, what is left of the image without it, child."""
    figure = Figure(figsize=(10, 1.95 * len(numbers) + 0.2), layout="constrained")
    for axes, number in zip(figure.subplots(len(numbers), 4), numbers, strict=True):
        pictures = {
            f"source {number}": image,
            "template": result.templates[number],
            "image − template": image - result.templates[number],
            "child: its share of the image": result.children[number],
        }
        for panel, (title, picture) in zip(axes, pictures.items(), strict=True):
            show(panel, picture, title)
        mark(axes[0], [number])
    return figure


templates_and_children(result, [0, 1, 2, 3], images[r])

# %% [markdown]
# The last column is what comes out. Added up, the children are the image: every pixel, noise included, belongs to
# somebody, apart from what no template reaches.

# %%
total = result.children.sum(axis=0) + result.unassigned
print(f"largest difference from the image: {np.abs(total - images[r]).max():.2g} of {images[r].max():.0f} electrons")

# %% [markdown]
# ## The unrecognised blend
#
# Look at the children of 0 and 2 again. The spot is *not* in the template of source 0, yet it is in its child: there is
# no other template at that place, so who else should get it? Source 2 has swallowed its spot in the same way. No
# deblender can help that knows of six galaxies where there are eight.

# %%
figure = Figure(figsize=(10, 3.4), layout="constrained")
noise = np.sqrt(variance[r])
panels = figure.subplots(1, 2)
for axes, number in zip(panels, (0, 2), strict=True):
    difference = (result.children[number] - truth[number, r]) / noise
    shown = axes.imshow(difference, origin="lower", cmap="RdBu_r", vmin=-12, vmax=12)
    axes.set_title(f"source {number}: child less truth, in units of the noise", loc="left", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    mark(axes, [number], "black")
figure.colorbar(shown, ax=panels, fraction=0.02)
figure

# %% [markdown]
# ## Three in a row
#
# Sources 4, 3 and 5 lie in a row, at equal distances, and the middle one is the faintest. Opposite of source 4, as seen
# from source 3, there is source 5. Both sides are bright, so the smaller is bright, too: the template of source 3 is
# mostly its neighbours'. It then takes light from both.

# %%
templates_and_children(result, [4, 3, 5], images[r])

# %%
row = [4, 3, 5]
for number in row:
    flag = "symmetry ambiguous" if result.flags[number] & jd.SingleBandFlag.SYMMETRY_AMBIGUOUS else ""
    print(f"source {number}: flux {table['error'][number]:+.0%} of the true one   {flag}")

# %% [markdown]
# Nothing in one band can tell this from a single long galaxy. But it can be *seen* that symmetry is no guide here, and
# the flag says so. Without the one in the middle, its neighbours come out well:

# %%
fewer = np.delete(np.arange(len(centers)), 3)
without = jd.deblend_single_band(images[r] - truth[3, r], variance[r], psf, centers[fewer])
for number in (4, 5):
    error = without.table()["flux"][list(fewer).index(number)] / truth[number, r].sum() - 1
    print(f"source {number}: {table['error'][number]:+.1%} with source 3, {error:+.1%} without")

# %% [markdown]
# ## Faint and small
#
# The template of a faint source is mostly noise. So the PSF is fitted to every peak, together with the sky and the PSFs
# of its neighbours, and where it fits, it becomes the template. Here are χ² per degree of freedom, at the position and
# with the PSF moved, and what became of it:

# %%
for number in range(len(centers)):
    kind = "PSF" if table["is_psf"][number] else "symmetric template"
    chisq = f"{table['psf_chisq'][number]:8.2f}{table['psf_chisq_2b'][number]:8.2f}"
    print(f"source {number}, {list(sources.values())[number].kind:6}  {chisq}   {kind}")

# %% [markdown]
# Only the star passes. Where the sky is noisier, small galaxies do, too: they are then told from stars no better than
# by eye. `SingleBandConfig(psf_chisq=...)` sets the limits, and `fit_psf=False` does without.
#
# ## What colours add
#
# Neighbours of different colours are easy to tell apart *by eye*. The fit of all bands uses that: each source has one
# shape and one spectrum, all sources are fitted together, and the PSF of each band is known.

# %%
obs = jd.Observation(images, variance, survey.psf, bands=bands)
fitted = jd.deblend(obs, centers)
shared = np.asarray(jd.apportion_flux(fitted.blend, obs).children)
print(f"{fitted.result.name} after {int(fitted.n_steps)} steps")

# %%
in_each_band = jd.deblend_single_band_batch(
    [(*jd.one_band(obs, band), centers) for band in bands], config=jd.SingleBandConfig()
)
templates_in_colour = np.stack([each.children for each in in_each_band], axis=1)

figure = Figure(figsize=(10, 6.6), layout="constrained")
window = (slice(None), slice(16, 48), slice(48, 82))
for axes, (title, parts) in zip(
    figure.subplots(3, 4),
    {"truth": truth, "templates, band by band": templates_in_colour, "fit of all bands": shared}.items(),
    strict=True,
):
    axes[0].set_ylabel(title)
    show(axes[0], rgb(sum(parts[k] for k in row)[window], bands=bands, norm=colours))
    for panel, number in zip(axes[1:], row, strict=True):
        show(panel, rgb(parts[number][window], bands=bands, norm=colours))
        if title == "truth":
            panel.set_title(f"source {number}", loc="left", fontsize=9)
figure

# %% [markdown]
# In the middle column the templates have made a grey smear of a red galaxy: in every band it has taken a part of its
# neighbours, and with it their colours. The fit keeps its colour and its flux, though the two unknown spots trouble it
# as well.

# %%
flux = {
    "templates": templates_in_colour[:, r].sum(axis=(1, 2)),
    "fit, models": np.asarray(fitted.source_models)[:, r].sum(axis=(1, 2)),
    "fit, re-apportioned": shared[:, r].sum(axis=(1, 2)),
}
errors = {name: values / truth[:, r].sum(axis=(1, 2)) - 1 for name, values in flux.items()}

figure = Figure(figsize=(8, 3.2), layout="constrained")
axes = figure.subplots()
for k, ((name, values), color) in enumerate(zip(errors.items(), ("#d55e00", "#0072b2", "#56b4e9"), strict=True)):
    axes.bar(np.arange(len(values)) + 0.26 * (k - 1), 100 * values, 0.24, color=color, label=name)
axes.axhline(0, color="black", lw=0.8)
axes.set(xlabel="source", ylabel="error of the flux in r [%]", xticks=range(len(centers)))
axes.legend(frameon=False, fontsize=8)
axes.spines[["top", "right"]].set_visible(False)
figure

# %% [markdown]
# ## From templates to a fit
#
# Templates can also be where the fit begins. They are what is seen through the PSF, so they are sharpened first. As a
# rule the fit's own start is the better one, with fewer steps, and it costs no more; but two starts that lead to the
# same end are a check of that end.

# %%
start = jd.deblend_single_band(*jd.one_band(obs), centers, config=jd.SingleBandConfig(fit_psf=False))
again = jd.fit(jd.initialize_from_templates(obs, start), obs)
print(f"from templates: {again.result.name} after {int(again.n_steps)} steps, loss {float(np.nanmin(again.loss)):.0f}")
print(
    f"as usual:       {fitted.result.name} after {int(fitted.n_steps)} steps, loss {float(np.nanmin(fitted.loss)):.0f}"
)
print("source   as usual   from templates")
for number, (one, two) in enumerate(zip(fitted.blend.sources, again.blend.sources, strict=True)):
    print(f"{number:6}  {float(one.flux[r]):9.0f}  {float(two.flux[r]):9.0f}")
