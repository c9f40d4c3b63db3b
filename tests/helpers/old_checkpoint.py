#!/usr/bin/env python
"""Write a small checkpoint as an old mmengine does; run it with old packages, see the file names.

The files in ``tests/data/old_checkpoints`` were made so, each in an environment of its own.
"""

import sys
from collections import OrderedDict

import mmengine
import numpy as np
import torch
from mmengine.logging import MessageHub

hub = MessageHub.get_instance('training')
for loss in (3.0, 1.0):
    hub.update_scalar('train/loss', torch.tensor(loss))
    hub.update_scalar('train/lr', np.float64(loss))
hub.update_info('iter', 2)
hub.update_info('best', np.float32(0.5))
hub.update_info('seed', np.int64(7))
model = torch.nn.Linear(2, 1)
torch.nn.init.constant_(model.weight, 0.5)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
torch.save(
    dict(
        meta=dict(epoch=1, iter=2, mmengine_version=mmengine.__version__, seed=np.int64(7)),
        state_dict=OrderedDict(model.state_dict()),
        message_hub=hub.state_dict(),
        optimizer=optimizer.state_dict(),
    ),
    f'{sys.argv[1]}/torch{torch.__version__.split("+")[0]}_numpy{np.__version__}'
    f'_mmengine{mmengine.__version__}.pth',
)
