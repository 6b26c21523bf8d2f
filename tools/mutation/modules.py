"""The modules that are mutated, and the tests that have to notice."""

TESTS = {
    "perception.eval.metric": ["tests/test_metric.py"],
    "perception.train.optim": ["tests/test_optim.py"],
    "perception.train.losses": ["tests/test_losses.py"],
    "perception.train.depth_loss": ["tests/test_losses.py"],
    "perception.train.batches": ["tests/test_schedule.py", "tests/test_train.py"],
    "perception.train.trainer": ["tests/test_optim.py", "tests/test_trainer.py", "tests/test_train.py"],
    "perception.processes": ["tests/test_trainer.py", "tests/test_shares.py"],
    "perception.train.validation": ["tests/test_validation.py"],
    "perception.train.objects": ["tests/test_paste.py"],
    "perception.train.paste": ["tests/test_paste.py"],
    "perception.model.head": ["tests/test_head.py"],
    "perception.train.targets": ["tests/test_head.py"],
    "perception.model.registration": ["tests/test_registration.py"],
    "perception.model.fusion": ["tests/test_fusion.py"],
}
