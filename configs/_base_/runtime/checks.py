# Hooks that check that data and model fit, and count images that turn out broken.
custom_hooks = [dict(type='mmdat.CheckFitHook'), dict(type='mmdat.CountBrokenImagesHook')]
