# As in mmsegmentation, the schedules say default_hooks.
_base_ = ['mmseg::_base_/default_runtime.py', './checks.py']
custom_imports = dict(imports=['mmdat'], allow_failed_imports=False)
