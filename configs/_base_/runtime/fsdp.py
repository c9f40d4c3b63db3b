# Parameters, gradients and the optimizer's state of a large model in shards, a part on each GPU.
# Checkpoints are whole, as those of one process are.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmdat.FSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel', auto_wrap_policy='mmdat.wrap_stages'),
    state_dict_cfg='full')
