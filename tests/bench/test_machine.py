"""What is said of the machine that figures come from."""

import json

import torch

from cvcodec.bench.machine import describe_machine, machine_facts


def test_machine_facts_are_json_and_name_the_threads() -> None:
    facts = machine_facts(torch.device("cpu"))
    assert json.loads(json.dumps(facts))["threads"] == torch.get_num_threads()
    assert f"{facts['threads']} threads" in describe_machine(facts)
