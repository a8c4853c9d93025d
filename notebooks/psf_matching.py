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
# # One blend, a different PSF in every band
#
# The atmosphere does not look the same through two filters, nor on two nights. The same galaxy is sharp in one band and
# washed out in the next, and a model that gives it one shape in all bands is wrong in most of them.
#
# One way out is to blur every image until all are as bad as the worst. That throws away what the sharp bands know about
# which light belongs to whom. The other way is to leave the images as they are, and to let the *model* know the PSFs:
# shapes live in a space of their own, and are convolved with a kernel of their own for each band before they are
# compared with the data.
#
# But which space? This notebook tries three, on a blend whose truth is known:
#
# 1. **no convolution**: shapes are what is seen;
# 2. **full deconvolution**: shapes are what would be seen without any PSF;
# 3. **partial deconvolution**: shapes are what would be seen with a PSF that is narrow, but not too narrow for pixels.
#
# The third is what `jaxdeblend` does unless told otherwise. It needs *difference kernels*, and half of this notebook is
# about how to find good ones.

# %%
import numpy as np
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

import jaxdeblend as jd
from jaxdeblend.simulate import simulate_blend
from jaxdeblend.view import asinh_norm, deblend_figure, psf_match_figure, rgb

# %% [markdown]
# ## The data
#
# Four sources in four bands. The g band has a PSF 5 pixels wide, the r band one of 3.2: a factor in area of 2.4.

# %%
bands = ("g", "r", "i", "z")
scene = simulate_blend(
    8, shape=(48, 48), bands=bands, n_sources=4, psf_fwhm=[5.0, 3.2, 4.1, 3.6], magnitudes=(20.0, 23.0),
    star_fraction=0.25, spread=0.28,
)  # fmt: skip
psf = jd.ImagePSF(scene.psf[:, 4:-4, 4:-4])
norm = asinh_norm(scene.images, scene.variance)

for number, (kind, flux) in enumerate(zip(scene.kind, scene.flux, strict=True)):
    print(f"source {number}: {kind:6}  electrons in {' '.join(bands)}:", *(f"{value:9.0f}" for value in flux))


# %%
def show(axes, picture, title, **style):
    """Draw a picture without ticks."""
    shown = axes.imshow(picture, origin="lower", interpolation="nearest", **style)
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    return shown


figure = Figure(figsize=(12, 2.9), layout="constrained")
panels = figure.subplots(1, 5)
show(panels[0], rgb(scene.images, bands=bands, norm=norm), "all bands")
panels[0].plot(scene.centers[:, 1], scene.centers[:, 0], "o", mfc="none", mec="white", ms=5)
for axes, band, image, width in zip(panels[1:], bands, scene.images, psf.fwhm(), strict=True):
    show(axes, np.arcsinh(image / image.max() * 50), f"{band}, FWHM {float(width):.1f} pixels", cmap="magma")
figure

# %% [markdown]
# ## Three ways
#
# An `Observation` holds images, variances and PSFs, and, if asked to, another PSF of model space (`model_psf`) or other
# kernels (`kernel`) than its own. That is all we need.
#
# ### No convolution
#
# The kernel is a single pixel in every band. Each source still has one shape for all bands, but what is seen has four.

# %%
point = jd.ImagePSF(np.ones((1, 1)))
untouched = jd.DifferenceKernel(np.ones((len(bands), 1, 1), np.float32))


def observation(**options):
    """The same data, with other ideas about their PSFs."""
    options = {"psf": psf} | options
    return jd.Observation(scene.images, scene.variance, bands=bands, **options)


observations = {"no convolution": observation(psf=point, model_psf=point, kernel=untouched)}
results = {"no convolution": jd.deblend(observations["no convolution"], scene.centers)}


def picture(way):
    """Data, model and residual."""
    obs = observations[way]
    return deblend_figure(
        obs.images, results[way].model, bands=bands, centers=scene.centers, weights=obs.weights, norm=norm
    )


picture("no convolution")

# %% [markdown]
# The model is ragged: it fits noise where it cannot fit the light. And the residual averages over the bands, which
# hides most of the trouble: where one band has too much light in the middle, another has too little. We will look at
# the bands one by one below.
#
# ### Full deconvolution
#
# Now the kernels are the PSFs themselves, and model space has none: the fit has to find what is above the atmosphere.

# %%
observations["full"] = observation(model_psf=point, kernel=jd.DifferenceKernel(psf.stamps))
results["full"] = jd.deblend(observations["full"], scene.centers)
picture("full")

# %% [markdown]
# Much better; only the star, source 0, leaves something. It should have become a single point. But shapes as sharp as
# that cannot be *sampled* by pixels: they ring as soon as they are moved by a fraction of one. And the PSF has removed
# all detail finer than itself, so that any detail that the fit invents there costs nothing. We come back to this when
# we have something to compare with.
#
# ## A narrow target
#
# So shapes should be sharper than the data, and no sharper than pixels can hold: they should be seen through a PSF of
# their own, the *target*. `fit_target_psf` makes one from the PSFs of all bands. It fits a profile to each, and takes
# 0.6 times the narrowest width (and for a Moffat profile wings 1.4 times as steep).

# %%
targets = {profile: jd.fit_target_psf(psf, profile) for profile in ("moffat", "gaussian")}
for profile, target in targets.items():
    print(f"{profile:8}  FWHM {float(target.fwhm()[0]):.2f} pixels")
print(f"default   FWHM {float(jd.GaussianPSF(0.8).fwhm()[0]):.2f} pixels")

# %%
figure = Figure(figsize=(6, 3.6), layout="constrained")
axes = figure.subplots()
radius = np.arange(psf.edge // 2 + 1)


def profile_of(stamp):
    """From the middle to the right, relative to the peak."""
    return stamp[psf.edge // 2, psf.edge // 2 :] / stamp.max()


for band, stamp, color in zip(bands, np.asarray(psf.stamps), ("#0072b2", "#009e73", "#e69f00", "#d55e00"), strict=True):
    axes.semilogy(radius, profile_of(stamp), color=color, label=band)
for (name, target), style in zip(targets.items(), ("--", ":"), strict=True):
    axes.semilogy(radius, profile_of(np.asarray(target.stamp(psf.edge))[0]), "k" + style, label=f"target, {name}")
axes.set(xlim=(0, 14), ylim=(1e-5, 1.5), xlabel="radius [pixels]", ylabel="brightness / peak")
axes.legend(frameon=False, fontsize=8)
axes.spines[["top", "right"]].set_visible(False)
figure

# %% [markdown]
# Both are narrower than every band, so that every kernel blurs, and none has to sharpen. The Gaussian has hardly any
# light beyond four pixels, and leaves the wings to the kernels. It is a little wider than what `Observation` uses by
# default, a Gaussian of σ = 0.8 pixels.
#
# ## Difference kernels
#
# The kernel $K_b$ of a band takes the target to the PSF of that band, $K_b * T = P_b$. `match_psf` finds it by least
# squares, with a little weight on smoothness: without that, noise in the PSFs would come back as rings.

# %%
target = targets["gaussian"]
matched = jd.match_psf(target, psf)
psf_match_figure(target, psf, matched, bands=bands)

# %% [markdown]
# The residual, on the right, is a thousandth of the PSF's peak in r and far less elsewhere. In numbers, for each band:
# the error of the modelled PSF, the error of the flux within any aperture, and the weight of the negative pixels of the
# kernel. A small residual is not enough, as a kernel may ring and still leave little: the last number gives it away. Up
# to 0.3 it is safe.

# %%
quality = matched.quality
print("band   error   aperture   negative")
for b, band in enumerate(bands):
    figures = (quality.l2[b], quality.encircled_energy[b], quality.negative_lobe[b])
    print(f"{band:4}  {figures[0]:.1e}   {figures[1]:.1e}   {figures[2]:.3f}")

# %% [markdown]
# Going the other way is refused. To take g to the PSF of r a kernel would have to sharpen, and multiply the noise:

# %%
try:
    jd.match_psf(psf.stamps[0], psf.stamps[1])
except ValueError as error:
    print(error)

# %% [markdown]
# ### Kernels with few pixels
#
# Most pixels of a kernel hold next to nothing. FFTs do not care, but convolutions that run over the pixels of the
# kernel do, and `Sparse` finds kernels that reach a wanted error with as few pixels as it can.

# %%
errors = (5e-3, 2e-3, 1e-3)
sparse = {error: jd.match_psf(target, psf, method=jd.Sparse(error=error)) for error in errors}

figure = Figure(figsize=(8.2, 8.2), layout="constrained")
for row, b in zip(figure.subplots(len(bands), 4), range(len(bands)), strict=True):
    kernels = {"all pixels": matched} | {f"error {error:g}": kernels for error, kernels in sparse.items()}
    for axes, (name, kernel) in zip(row, kernels.items(), strict=True):
        image = np.asarray(kernel.kernel.image[b])
        shown = np.where(image == 0, np.nan, np.arcsinh(image / image.max() * 300))
        show(axes, shown, f"{name}: {np.count_nonzero(image)}", cmap="magma", vmin=-2)
        axes.set_facecolor("0.85")
    row[0].set_ylabel(bands[b])
figure

# %% [markdown]
# Grey pixels are exactly zero. The narrow PSF of r needs fewest.
#
# ## Partial deconvolution
#
# An `Observation` takes the kernels as they are, if it is told which PSF they start from. (Left alone, it finds some of
# its own, as good as these.)

# %%
observations["partial"] = observation(model_psf=target, kernel=matched.kernel)
results["partial"] = jd.deblend(observations["partial"], scene.centers)
picture("partial")

# %% [markdown]
# ## What came out, source by source
#
# First what is *seen* of each source. Full and partial deconvolution agree with the truth. Without convolution, a
# source takes whatever helps to mend the shape of its neighbour: the star has become a bow tie, and cut a notch into
# source 1.

# %%
ways = {"no convolution": "no convolution", "full": "full deconvolution", "partial": "partial deconvolution"}

figure = Figure(figsize=(8.6, 8.6), layout="constrained")
for row, number in zip(figure.subplots(len(scene.kind), 4), range(len(scene.kind)), strict=True):
    pictures = {"truth": scene.truth[number]}
    pictures |= {title: results[way].source_models[number] for way, title in ways.items()}
    for axes, (title, images) in zip(row, pictures.items(), strict=True):
        show(axes, rgb(images, bands=bands, norm=norm), title if number == 0 else "")
    row[0].set_ylabel(f"source {number}, {scene.kind[number]}")
figure

# %% [markdown]
# Then what it is made of: the shapes before they are convolved. Orange is light, violet is less than none.

# %%
figure = Figure(figsize=(6.6, 8.6), layout="constrained")
for row, number in zip(figure.subplots(len(scene.kind), 3), range(len(scene.kind)), strict=True):
    for axes, (way, title) in zip(row, ways.items(), strict=True):
        model = np.asarray(results[way].blend.sources[number].render()).sum(axis=0)
        top = np.abs(model).max()
        style = {"cmap": "PuOr_r", "norm": AsinhNorm(top / 100, vmin=-top, vmax=top)}
        y, x = (int(np.clip(round(at), 14, 33)) for at in scene.centers[number])
        show(axes, model[y - 14 : y + 15, x - 14 : x + 15], title if number == 0 else "", **style)
    row[0].set_ylabel(f"source {number}, {scene.kind[number]}")
figure

# %% [markdown]
# Look at the star. Full deconvolution has made it a pattern of light and less than light, which the PSF wipes out, so
# that the data hardly speak against it. The galaxies, round and wide as they are, fare better. Seen through the target
# all of them are well behaved, and still sharper than in any band.
#
# ## Residuals, band by band
#
# In units of the noise, red where there is more light than the model has.

# %%
figure = Figure(figsize=(9.6, 7.2), layout="constrained")
panels = figure.subplots(len(ways), len(bands))
for row, (way, title) in zip(panels, ways.items(), strict=True):
    obs = observations[way]
    residual = (np.asarray(obs.images) - results[way].model) * np.sqrt(np.asarray(obs.weights))
    for axes, band, image in zip(row, bands, residual, strict=True):
        title_of_panel = f"{band}, χ²/N = {np.mean(image**2):.2f}"
        shown = show(axes, image, title_of_panel, cmap="RdBu_r", vmin=-5, vmax=5)
    row[0].set_ylabel(title)
figure.colorbar(shown, ax=panels, fraction=0.03, label="residual / σ")
figure

# %% [markdown]
# Without convolution every source has a ring: its shape is a compromise, too wide for r and too narrow for g and i. In
# z, whose PSF is in between, there is almost none.
#
# ## Fluxes against the truth
#
# Half of the sources are off by less than the first number, the worst in any band by the second; the third is the error
# of the colour g − r in magnitudes, and the last how much of the power of all shapes lies at frequencies of which no
# band's PSF passes one per cent. About that share, noise alone has decided.


# %%
def unseen(model, limit=0.01):
    """Share of the power of a model at frequencies that the PSF of every band suppresses."""
    seen = np.abs(np.fft.fft2(np.asarray(psf.stamps), s=(128, 128))).max(axis=0) > limit
    power = np.abs(np.fft.fft2(model, s=(128, 128))) ** 2
    return power[~seen].sum() / power.sum()


print("                        flux error        g − r    unseen")
print("                       median   worst   median     power    steps")
for way, title in ways.items():
    sources = results[way].blend.sources
    error = np.array([source.flux for source in sources]) / scene.flux - 1
    ratio = (1 + error[:, 0]) / (1 + error[:, 1])
    shapes = sum(np.asarray(source.render()).sum(axis=0) for source in sources)
    print(
        f"{title:22} {np.median(np.abs(error)):6.1%}  {np.abs(error).max():6.1%}  "
        f"{np.median(np.abs(2.5 * np.log10(ratio))):6.3f}  {unseen(shapes):8.2%}  {int(results[way].n_steps):6}"
    )

# %% [markdown]
# ## When the PSF varies
#
# Across a whole exposure the PSF is different in every corner. For a blend, the PSF where it lies is all that counts.
# For coadds and colours in apertures one may want the exposure itself to have one PSF everywhere: `match_exposure`
# finds kernels on a grid of positions, draws a polynomial through every one of their pixels, and convolves images,
# variances and masks. Its target has to be *wider* than the PSF anywhere; `coadd_target` gives one.

# %%
edge, nodes = 31, np.array([0.0, 63.5, 127.0])
stamps = np.stack([[jd.MoffatPSF(3.2 + 0.3 * u + 0.2 * v, 3.0).stamp(edge) for u in range(3)] for v in range(3)])
varying = jd.GridPSFField(stamps, nodes, nodes)

sky = np.random.default_rng(1).normal(0, 1e-4, (1, 128, 128)).astype(np.float32)
positions = np.array([[24, 24], [24, 104], [64, 64], [104, 24], [104, 104]])
for (y, x), star in zip(positions, np.asarray(varying.stamps(positions.astype(float))), strict=True):
    sky[:, y - 15 : y + 16, x - 15 : x + 16] += star
exposure = jd.Exposure(sky, [1e-8], varying, bands=["r"])

wide = jd.coadd_target(np.asarray(varying.at((127, 127)).stamp(edge)))
result = jd.match_exposure(exposure, wide, jd.MatchConfig(order=2, cell=32))


def fwhm_of_stars(images):
    """FWHM of each star, from its stamp."""
    stars = np.stack([images[0, y - 15 : y + 16, x - 15 : x + 16] for y, x in positions])
    return " ".join(f"{width:.2f}" for width in jd.ImagePSF(stars).fwhm())


wanted = float(jd.ImagePSF(wide.stamp(edge)).fwhm()[0])
print(f"FWHM of five stars before: {fwhm_of_stars(exposure.images)}")
print(f"                    after: {fwhm_of_stars(result.exposure.images)}, wanted: {wanted:.2f}")
print(f"largest error of a kernel: {float(np.max(result.candidates.spatial.l2)):.1e}")

# %% [markdown]
# Five stars of different widths have become five stars of one. `result.exposure` has its new PSF, variance and mask
# with it, and goes wherever an exposure goes.
