# SPDX-License-Identifier: Apache-2.0
"""The navigator of RLoT, a Q-network of 2,566 parameters, and its learning rule: double dueling DQN with replay."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...state.checkpoint import read_tensors, write_atomically, write_tensors


ASPECTS = ("A1", "A2", "A3", "B1", "B2", "C1", "C2")
ACTIONS = ("R", "D", "Db", "Rf", "Ga")  # reason one step, decompose, debate, refine, give the answer
ANSWER, REFINE, REASON = ACTIONS.index("Ga"), ACTIONS.index("Rf"), ACTIONS.index("R")
LARGEST_RATING = 3
NETWORK_FILE, CONFIG_FILE, STATE_FILE = "navigator.safetensors", "navigator.json", "training_state.safetensors"
_HIDDEN = 32

State = tuple[int, ...]


@dataclass(frozen=True)
class NavigatorConfig:
    """
    Settings of the learning rule and of the episodes. The defaults are those of the authors' code.

    Args:
        gamma (`float`, *optional*, defaults to `0.9`): Discount per block, in `[0, 1]`.
        replay_size (`int`, *optional*, defaults to `500`): Transitions in the replay. Nothing is learned before it is full.
        batch_size (`int`, *optional*, defaults to `64`): Transitions of an update, at most `replay_size`.
        learning_rate (`float`, *optional*, defaults to `0.01`): Learning rate of Adam, positive.
        halve_every (`int`, *optional*, defaults to `1000`): Episodes after which the learning rate is halved.
        epsilon (`float`, *optional*, defaults to `1.0`): Probability of a random action at the start, in `[0, 1]`.
        epsilon_decay (`float`, *optional*, defaults to `0.9995`): Factor of it before each action, in `[0, 1]`.
        target_every (`int`, *optional*, defaults to `50`): Updates after which the target network is copied.
        max_depth (`int`, *optional*, defaults to `5`): Blocks of an episode before its answer, at least 1.
        store_forced (`str`, *optional*, defaults to `"answer"`):
            Action that is stored for an answer that is forced at `max_depth`: `"answer"`, the executed one, or `"chosen"`, as in the authors' code.
        seed (`int`, *optional*, defaults to `1`): Seed of the weights, the exploration, the replay and the problems.

    Raises:
        `ValueError`: If a setting is out of range.
    """

    gamma: float = 0.9
    replay_size: int = 500
    batch_size: int = 64
    learning_rate: float = 0.01
    halve_every: int = 1000
    epsilon: float = 1.0
    epsilon_decay: float = 0.9995
    target_every: int = 50
    max_depth: int = 5
    store_forced: str = "answer"
    seed: int = 1

    def __post_init__(self):
        for name in ("gamma", "epsilon", "epsilon_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}.")
        for name in ("batch_size", "halve_every", "target_every", "max_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}.")
        if self.replay_size < self.batch_size:
            raise ValueError(
                f"replay_size {self.replay_size} is smaller than batch_size {self.batch_size}, which are drawn from it without "
                "replacement. Raise replay_size, or lower batch_size."
            )
        if self.store_forced not in ("answer", "chosen"):
            raise ValueError(f"store_forced must be 'answer' or 'chosen', got {self.store_forced!r}.")

    def epsilon_after(self, actions: int) -> float:
        """Return the probability of a random action after a number of actions."""
        return self.epsilon * self.epsilon_decay**actions

    def learning_rate_at(self, episode: int) -> float:
        """Return the learning rate at an episode, from 0."""
        return self.learning_rate * 0.5 ** (episode // self.halve_every)


def check_state(state: Sequence[int], size: int = len(ASPECTS)) -> State:
    """Return a state as a tuple. Raises a `ValueError` if it does not have `size` ratings between 0 and 3."""
    ratings = tuple(state)
    if len(ratings) != size or any(rating not in range(LARGEST_RATING + 1) for rating in ratings):
        raise ValueError(
            f"A state has {size} ratings, whole numbers between 0 and {LARGEST_RATING}; got {list(state)}."
        )
    return tuple(int(rating) for rating in ratings)


def network_input(states: Sequence[Sequence[int]] | Tensor) -> Tensor:
    """Return ratings 0 to 3 as inputs of the network, `(s - 1.5) / 1.5`: between -1 and 1, float32, of the same shape."""
    return (torch.as_tensor(states, dtype=torch.float32) - LARGEST_RATING / 2) / (LARGEST_RATING / 2)


def dueling(value: Tensor, advantages: Tensor) -> Tensor:
    """Return `value + advantages - mean(advantages)`: Q of shape (..., actions) from a value of (..., 1)."""
    return value + advantages - advantages.mean(dim=-1, keepdim=True)


def double_dqn_target(
    reward: Tensor, online: Tensor, target: Tensor, done: Tensor, gamma: float, *, double: bool = True
) -> Tensor:
    r"""
    Return the target of Q, $r + \gamma Q_\text{target}(s', \arg\max_a Q(s', a)) (1 - \text{done})$.

    Args:
        reward (`Tensor`): Rewards, (batch,).
        online, target (`Tensor`): Q-values of the next states, of both networks, (batch, actions).
        done (`Tensor`): 1 where the episode has ended, otherwise 0, (batch,).
        gamma (`float`): Discount.
        double (`bool`, *optional*, defaults to `True`): Whether the online network chooses the action. `False`: the target network chooses it.

    Returns:
        `Tensor`: (batch,).
    """
    chosen = (online if double else target).argmax(dim=-1, keepdim=True)
    return reward + gamma * target.gather(-1, chosen).squeeze(-1) * (1 - done)


class Navigator(nn.Module):
    """
    Dueling Q-network: ratings of the state to one value per block.

    Args:
        states (`int`, *optional*, defaults to `7`): Ratings of a state.
        actions (`int`, *optional*, defaults to `5`): Blocks.
    """

    def __init__(self, states: int = len(ASPECTS), actions: int = len(ACTIONS)):
        super().__init__()
        self.states, self.actions = states, actions
        self.input = nn.Linear(states, _HIDDEN)
        self.advantage = nn.Sequential(nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, actions))
        self.value = nn.Sequential(nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return Q-values, (batch, actions), for [`network_input`], (batch, states)."""
        hidden = torch.relu(self.input(inputs))
        return dueling(self.value(hidden), self.advantage(hidden))

    @torch.no_grad()
    def best_actions(self, states: Sequence[Sequence[int]]) -> list[int]:
        """Return the action of the largest Q-value for each state."""
        checked = [check_state(state, self.states) for state in states]
        return self(network_input(checked)).argmax(dim=-1).tolist() if checked else []

    def save(self, folder: str | Path, **facts: Any) -> None:
        """Write `navigator.safetensors` and `navigator.json`: the sizes, and further `facts` (values of JSON)."""
        folder = Path(folder)
        write_tensors(folder / NETWORK_FILE, self.state_dict())
        sizes = {"states": self.states, "actions": self.actions}
        write_atomically(folder / CONFIG_FILE, (json.dumps({**sizes, **facts}, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> Navigator:
        """
        Load a navigator that [`save`] wrote.

        Raises:
            `FileNotFoundError`: If the folder contains none.
            `ValueError`: If the weights are damaged, or of other sizes.
        """
        path = Path(folder) / NETWORK_FILE
        tensors = read_tensors(path)
        navigator = cls()
        sizes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in navigator.state_dict().items()}
        if sizes != expected:
            weights = sizes.get("input.weight")
            raise ValueError(
                f"{path} is not a navigator with {navigator.states} ratings and {navigator.actions} blocks: its first layer has the shape "
                f"{weights}, and {expected['input.weight']} is needed. Train it again with the same ratings and blocks."
            )
        navigator.load_state_dict(tensors)
        return navigator


class DoubleDQN:
    """
    The learning rule of the navigator, with all that a resumed run needs.

    Args:
        config ([`NavigatorConfig`], *optional*): Settings.

    Attributes:
        navigator ([`Navigator`]): The network that is trained.
        episodes, actions, updates (`int`): How many there have been.
        stored (`int`): Transitions so far, of which the replay has the last `replay_size`.
    """

    def __init__(self, config: NavigatorConfig | None = None):
        self.config = config or NavigatorConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.navigator, self.target = Navigator(), Navigator()
        self.target.load_state_dict(self.navigator.state_dict())
        self.optimizer = torch.optim.Adam(self.navigator.parameters(), lr=self.config.learning_rate)
        self.random = torch.Generator().manual_seed(self.config.seed)
        self.episodes = self.actions = self.updates = self.stored = 0
        # columns: state, action, reward, next state, done
        self.replay = torch.zeros(self.config.replay_size, 2 * len(ASPECTS) + 3)

    @property
    def epsilon(self) -> float:
        """Probability of a random action."""
        return self.config.epsilon_after(self.actions)

    def choose(self, states: Sequence[Sequence[int]]) -> list[int]:
        """Return an action per state, a random one with the probability epsilon, which decays before each."""
        best, chosen = self.navigator.best_actions(states), []
        for action in best:
            self.actions += 1
            explores = torch.rand((), generator=self.random).item() < self.epsilon
            drawn = int(torch.randint(len(ACTIONS), (), generator=self.random))
            chosen.append(drawn if explores else action)
        return chosen

    def learn(self, state: State, action: int, reward: float, next_state: State | None) -> float | None:
        """
        Store a transition and, once the replay is full, update the network.

        Args:
            state (`tuple[int, ...]`): Ratings before the block.
            action (`int`): The block.
            reward (`float`): Its reward.
            next_state (`tuple[int, ...]`, *optional*): Ratings after it; `None` if the episode has ended.

        Returns:
            `float`, *optional*: The loss of the update; `None` without one.
        """
        following = check_state(next_state if next_state is not None else [0] * len(ASPECTS))
        row = [*check_state(state), action, reward, *following, next_state is None]
        self.replay[self.stored % len(self.replay)] = torch.tensor(row, dtype=torch.float32)
        self.stored += 1
        if self.stored < len(self.replay):
            return None
        places = torch.randperm(len(self.replay), generator=self.random)[: self.config.batch_size]
        return self._update(self.replay[places])

    def _update(self, rows: Tensor) -> float:
        size = len(ASPECTS)
        states, action, reward, following, done = rows.split([size, 1, 1, size, 1], dim=1)
        following = network_input(following)
        with torch.no_grad():
            aims = double_dqn_target(
                reward.squeeze(1),
                self.navigator(following),
                self.target(following),
                done.squeeze(1),
                self.config.gamma,
            )
        values = self.navigator(network_input(states)).gather(1, action.long()).squeeze(1)
        loss = nn.functional.mse_loss(values, aims)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.episodes)
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            self.target.load_state_dict(self.navigator.state_dict())
        return loss.item()

    def save(self, path: str | Path, run: str = "") -> None:
        """Write networks, optimizer, replay, counters and random state to one safetensors file, atomically. `run` identifies the run."""
        tensors = {"replay": self.replay, "random": self.random.get_state()}
        for name, network in (("navigator", self.navigator), ("target", self.target)):
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{key}": value for key, value in moments.items()}
        counters = {name: getattr(self, name) for name in ("episodes", "actions", "updates", "stored")}
        write_tensors(Path(path), tensors, {**self._metadata(run), "counters": json.dumps(counters)})

    def _metadata(self, run: str) -> dict[str, str]:
        return {"config": json.dumps(asdict(self.config)), "run": run}

    @classmethod
    def load(cls, path: str | Path, config: NavigatorConfig | None = None, run: str = "") -> DoubleDQN:
        """
        Continue from a file that [`save`] wrote.

        Args:
            path (`str` or `Path`): The file.
            config ([`NavigatorConfig`], *optional*): Settings of the run, which must be those of the file.
            run (`str`, *optional*): What identifies the run, as given to `save`.

        Raises:
            `FileNotFoundError`: If the file does not exist.
            `ValueError`: If it is damaged, or has other settings.
        """
        from safetensors import safe_open

        learner = cls(config)
        tensors = read_tensors(Path(path))
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
        if any(found.get(name) != value for name, value in learner._metadata(run).items()):
            raise ValueError(
                f"{path} is of a training with other settings or problems, which cannot be continued. Choose an empty folder, or give the same ones."
            )
        counters = json.loads(found["counters"])
        for name, count in counters.items():
            setattr(learner, name, count)
        learner.replay = tensors["replay"].clone()
        learner.random.set_state(tensors["random"])
        for name, network in (("navigator", learner.navigator), ("target", learner.target)):
            network.load_state_dict({key: tensors[f"{name}.{key}"] for key in network.state_dict()})
        state = learner.optimizer.state_dict()
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                place, key = rest.split(".")
                state["state"].setdefault(int(place), {})[key] = tensor.clone()
        learner.optimizer.load_state_dict(state)
        return learner
