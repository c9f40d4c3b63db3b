# Hooks that check that data and model fit, count images that turn out broken, and skip steps whose
# loss is not finite.
custom_hooks = [
    dict(type='mmdat.CheckFitHook'), dict(type='mmdat.CountBrokenImagesHook'),
    dict(type='mmdat.FiniteLossHook')]
