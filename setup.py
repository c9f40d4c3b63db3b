import setuptools

if int(setuptools.__version__.split('.')[0]) < 61:  # these would install a package named UNKNOWN
    raise SystemExit(
        f'mmdat needs setuptools 61 or later, not {setuptools.__version__}: run '
        '`pip install "setuptools>=61,<81"`.'
    )
setuptools.setup()
