"""Products with a Gaussian matrix that is never formed, exact in law at every finite size.

Of a matrix W of independent standard normal entries only what products need is drawn. With q_1 … q_k an orthonormal
basis of the inputs so far, the images W q_i are independent standard normal vectors; a new input x = Σ c_i q_i + s q
has the product Σ c_i W q_i + s W q, and only W q is drawn. Products with Wᵀ do the same on the other side: what they
have fixed of W, its rows along p_1 … p_j, is put into a new W q in place of what was drawn there. In law this is W,
whatever the inputs and however they depend on earlier products. Source: docs/theory.md, "Sampling"; the principle of
deferred decisions, as in Lu, IEEE Transactions on Information Theory 67 (2021) 5382 (Householder Dice).
"""

import math
from collections.abc import Callable

import torch

from residual_theory.montecarlo.randomness import Normals, Rows, allocate, cut

_INDEPENDENT = 0.75  # least share of a stored remainder's square that is new; below it the remainder is taken again
_MOST_PASSES = 4
_LINE = 16  # inputs until a path is suggested anew
Course = list[tuple[bool, bool, bool]]  # of each input: in units of its own, new in some trial, new in all
_ROUNDING = 8.0  # in units of the dtype's epsilon: directions below it are rounding


class _Path:
    """The inputs from visit to visit, of which the last two are extrapolated linearly to suggest the next.

    x is compared with 2 x₁ − x₂ entry by entry, so that what is left keeps its digits. Since rounding grows along the
    line, and what was dropped from an input is not in its coordinates, the line starts anew now and then.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._last, self._step, self._new_step = like, torch.empty_like(like), torch.empty_like(like)
        self._known = 0  # inputs since the start of the line
        self.square = like.new_zeros(len(like))  # of the last input's norm; 0 at the start of a line

    def suggest(self, coordinates: torch.Tensor, inputs: int, period: int) -> torch.Tensor:
        """The coordinates (trial, k) of what is suggested, from those of all inputs (trial, input, k)."""
        if self._known == 0:
            return coordinates.new_zeros(coordinates.shape[::2])
        last = coordinates[:, inputs - period]
        if self._known == 1:
            return last
        suggested: torch.Tensor = torch.lerp(coordinates[:, inputs - 2 * period], last, 2.0)
        return suggested

    def remainder(self, x: torch.Tensor, piece: slice, out: torch.Tensor) -> None:
        """x less what is suggested, in a piece of `out`."""
        here, step = cut(out, piece), cut(self._new_step, piece)
        if self._known == 0:
            here.copy_(cut(x, piece))
            return
        torch.sub(cut(x, piece), cut(self._last, piece), out=step)
        if self._known == 1:
            here.copy_(step)
        else:
            torch.sub(step, cut(self._step, piece), out=here)

    def restart(self) -> None:
        """Let the next input be the first of a line."""
        self._known, self.square = 0, torch.zeros_like(self.square)

    def advance(self, x: torch.Tensor, square: torch.Tensor, *, restart: bool) -> None:
        """x, which must stay as it is, has been taken in; its norm's square."""
        self._last, self._step, self._new_step = x, self._new_step, self._step
        self._known, self.square = (self._known + 1) % _LINE, square
        if restart or not self._known:
            self.restart()


class _Side:
    """The vectors that W was multiplied with on one side, and its images of an orthonormal basis of them.

    The vectors z_i that are stored are nearly orthogonal; `inverse` holds the lower triangle T with q = T z exactly
    orthonormal (the inverse Cholesky factor of their Gram matrix), so that no stored vector is written twice.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], like: torch.Tensor, rows: Rows, tolerance: float, course: Course
    ) -> None:
        trials, products, size, image = shape
        self.vectors = allocate((trials, products, size), like)
        self.images = allocate((trials, products, image), like)
        self.inverse = like.new_zeros(trials, products, products)
        self.coordinates = like.new_zeros(trials, products, products)  # of every input, in the basis q
        self.count, self.inputs = 0, 0
        self._paths: list[_Path] = []
        self._rows, self._tolerance, self._course = rows, tolerance, course
        limits = torch.finfo(like.dtype)
        self._tiny = limits.tiny  # below, squares lose their digits
        self._range = limits.tiny / (_ROUNDING * limits.eps) ** 2, limits.max / 2**10

    def resolve(
        self, x: torch.Tensor, period: int, scale: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, list[bool]]:
        """Split x = Σ c_i q_i + s q (trial, n) to rounding, and note c and s as the coordinates of the next input.

        The remainder z = Σ inside_i q_i + s q is written after the stored vectors, to be kept or overwritten. What the
        inputs `period` and 2·`period` before this one suggest is taken off x first: along a smooth path little else
        is left, and one pass over what is stored is enough.

        An input whose square is beyond the dtype's range, or loses its digits there, is resolved in other units: x is
        then what was given divided by `scale` (trial,), powers of two, which its coordinates get back.

        Returns: inside (trial, k), 1/s (trial,) or 0 where s is no more than the tolerance, and where it is more.
        """
        k = self.count
        if len(self._paths) < period:
            self._paths.append(_Path(x))
        path = self._paths[self.inputs % period]
        coordinates = path.suggest(self.coordinates[:, :, :k], self.inputs, period)
        after = self.vectors[:, k]
        inside, square = self._leave(lambda piece: path.remainder(x, piece, after), x.shape[1])
        coordinates = coordinates + inside
        norm, left = torch.linalg.vecdot(x, x), square - torch.linalg.vecdot(inside, inside)
        numbers = torch.stack((norm, square, left, path.square)).tolist()
        if scale is None and not self._in_range(numbers[0]):
            units = _units(x)
            path.restart()
            return self.resolve(x / units[:, None], period, units)
        for _ in range(_MOST_PASSES):
            new, again, astray = self._judge(*numbers)
            if not any(again):
                break
            chosen = torch.tensor(again, device=x.device)[:, None]
            buried = torch.tensor(astray, device=x.device)[:, None]
            inside, coordinates = inside.masked_fill(buried, 0), coordinates.masked_fill(buried, 0)
            z = torch.where(buried, x, self.vectors[:, k])
            better, new_square = self._leave(self._less(z, inside), x.shape[1])
            self.vectors[:, k] = torch.where(chosen, self.vectors[:, k], z)
            inside = torch.where(chosen, better, inside)
            square = torch.where(chosen[:, 0], new_square, square)
            coordinates = coordinates + better * chosen
            left = square - torch.linalg.vecdot(inside, inside)
            numbers = torch.stack((norm, square, left, torch.zeros_like(norm))).tolist()
        size = left.clamp_(min=0).sqrt_()
        share = size.reciprocal()
        if not all(new):
            none = torch.tensor(new, device=x.device).logical_not_()
            size, share = size.masked_fill_(none, 0), share.masked_fill_(none, 0)
        noted = self.coordinates[:, self.inputs]
        noted[:, :k] = coordinates
        noted[:, k] = size
        if scale is not None:
            noted[:, : k + 1] *= scale[:, None]
        self.inputs += 1
        self._course.append((scale is None, any(new), all(new)))
        path.advance(x, norm, restart=scale is not None or not all(new))
        return inside, share, new

    def _in_range(self, norm: list[float]) -> bool:
        """Whether squares of all trials' parts down to rounding are normal numbers."""
        least, most = self._range
        return all(least <= square <= most for square in norm)

    def _judge(
        self, norm: list[float], square: list[float], left: list[float], before: list[float]
    ) -> tuple[list[bool], list[bool], list[bool]]:
        """Of each trial: whether its input has a new direction, z is too little of it, no suggestion is better.

        None is better where this one gains nothing, or is so much longer than x that digits of x are lost.
        """
        numbers = list(zip(norm, square, left, before, strict=True))
        least = [max(self._tolerance**2 * n, self._tiny) for n in norm]
        new = [not rest <= small or n == math.inf for (n, _, rest, _), small in zip(numbers, least, strict=True)]
        astray = [_INDEPENDENT * z > n or last > 4 * n for n, z, _, last in numbers]
        again = [
            lost or (rest < _INDEPENDENT * z and z > small)
            for lost, (_, z, rest, _), small in zip(astray, numbers, least, strict=True)
        ]
        return new, again, astray

    def by_call(self, inputs: int) -> torch.Tensor:
        """The coordinates of all inputs so far (trial, call, input, k)."""
        return self.coordinates[:, : self.inputs].reshape(len(self.coordinates), -1, inputs, self.coordinates.shape[2])

    def _leave(self, fill: Callable[[slice], None], size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Have `fill` write z after the stored vectors; its coordinates along the basis, and ‖z‖²."""
        k = self.count

        stored = self.vectors[:, : k + 1]

        def work(piece: slice) -> torch.Tensor:
            fill(piece)
            part = cut(stored, piece)
            return torch.bmm(part[:, k:], part.mT)  # row times matrix is the form that is fast in torch

        sums = self._rows.total(work, size)
        return torch.bmm(sums[:, :, :k], self.inverse[:, :k, :k].mT)[:, 0], sums[:, 0, k]

    def _less(self, z: torch.Tensor, coordinates: torch.Tensor) -> Callable[[slice], None]:
        """Writes z − Σ c_i q_i after the stored vectors."""
        k = self.count
        factors, stored = torch.bmm(coordinates[:, None], self.inverse[:, :k, :k]), self.vectors[:, : k + 1]

        def fill(piece: slice) -> None:
            part = cut(stored, piece)
            torch.baddbmm(cut(z[:, None], piece), factors, part[:, :k], alpha=-1, out=part[:, k:])

        return fill

    def keep(self, inside: torch.Tensor, share: torch.Tensor, new: list[bool]) -> None:
        """Take in the remainder that `resolve` wrote; a trial without one gets the vector 0."""
        k = self.count
        if k:
            factors = (inside * -share[:, None])[:, None]
            torch.bmm(factors, self.inverse[:, :k, :k], out=self.inverse[:, k : k + 1, :k])
        self.inverse[:, k, k] = share
        self.count += 1
        if not all(new):
            none = torch.tensor(new, device=share.device).logical_not_()
            self.vectors[:, k][none] = 0
            self.images[:, k][none] = 0

    def along(self, x: torch.Tensor) -> torch.Tensor:
        """The coordinates ⟨q_i, x⟩ (trial, k) of x (trial, n)."""
        stored = self.vectors[:, : self.count]
        sums = self._rows.total(lambda piece: _products(cut(x, piece), cut(stored, piece)), x.shape[1])
        return _products(sums, self.inverse[:, : self.count, : self.count])

    def add_span(self, out: torch.Tensor, coordinates: torch.Tensor) -> None:
        """out += Σ c_i q_i."""
        factors = torch.bmm(coordinates[:, None], self.inverse[:, : self.count, : self.count])
        stored = self.vectors[:, : self.count]

        def work(piece: slice) -> None:
            cut(out[:, None], piece).baddbmm_(factors, cut(stored, piece))

        self._rows.each(work, out.shape[1])

    def products(self, x: torch.Tensor) -> torch.Tensor:
        """⟨W q_i, x⟩ (trial, k) of x (trial, image)."""
        images = self.images[:, : self.count]
        return self._rows.total(lambda piece: _products(cut(x, piece), cut(images, piece)), x.shape[1])

    def product(self) -> torch.Tensor:
        """W x (trial, image) of the last input."""
        images = self.images[:, : self.count]
        coordinates = self.coordinates[:, self.inputs - 1 : self.inputs, : self.count]
        out = images.new_empty(len(images), 1, images.shape[2])

        def work(piece: slice) -> None:
            torch.bmm(coordinates, cut(images, piece), out=cut(out, piece))

        self._rows.each(work, images.shape[2])
        return out[:, 0]


def _units(x: torch.Tensor) -> torch.Tensor:
    """Of each trial the power of two just below x's largest entry; 1 where that is zero or not finite."""
    largest = torch.linalg.vector_norm(x, ord=math.inf, dim=1)
    fit = (largest > 0) & (largest < math.inf)
    _, exponent = torch.frexp(torch.where(fit, largest, 1.0))
    return torch.ldexp(torch.ones_like(largest), exponent - 1)


def _products(x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """⟨v_i, x⟩ (trial, k) of x (trial, n) and v (trial, k, n), in the form that is fast in torch: row times matrix."""
    return torch.bmm(x[:, None], vectors.mT)[:, 0]


class MatrixFree:
    """Products with standard normal matrices W (one a trial) and their transposes, up to `products` of each kind.

    Arguments:
      shape: rows and columns of W.  products: the most products with W, and with Wᵀ if `transposed`.
      normals: where numbers come from.  rows: how long vectors are divided.  like: a tensor (trial, …) that gives the
        number of trials, dtype and device.
      tolerance: an input whose part outside the basis is at most this share of its norm counts as inside; 0 < … < 1.
        By default 8 units of rounding, so that only rounding is dropped. sign: −1 for the antithetic matrix.
      course: takes down what trials decide together. Where parts of them decide alike, they give the same bits apart.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        products: int,
        normals: Normals,
        rows: Rows,
        like: torch.Tensor,
        *,
        transposed: bool = False,
        tolerance: float | None = None,
        sign: int = 1,
        course: Course | None = None,
    ) -> None:
        least = _ROUNDING * torch.finfo(like.dtype).eps if tolerance is None else tolerance
        trials, (image, size), back = len(like), shape, products if transposed else 0
        course = [] if course is None else course
        self._right = _Side((trials, products, size, image), like, rows, least, course)
        self._left = _Side((trials, back, image, size), like, rows, least, course)
        self._between = like.new_zeros(trials, back, products)  # p_jᵀ W q_i
        self._normals, self._sign = normals, sign
        self._calls: list[int] = []

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """W x for x (trial, input, columns): (trial, input, rows)."""
        return self._all(self._right, self._left, self._between, x)

    def multiply_transposed(self, u: torch.Tensor, call: int) -> torch.Tensor:
        """Wᵀ u for u (trial, input, rows), the cotangent of product number `call`: (trial, input, columns)."""
        self._calls.append(call)
        return self._all(self._left, self._right, self._between.mT, u)

    def gradient_square(self, inputs: int) -> torch.Tensor:
        """‖Σ u xᵀ‖² (trial, input) over the products and the cotangents given for them."""
        u, x = self._left.by_call(inputs), self._right.by_call(inputs)[:, self._calls]
        return torch.einsum("bcij,bcik->bijk", u, x).square().sum(dim=(2, 3))

    def _all(self, entering: _Side, leaving: _Side, between: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        inputs = x.shape[1]
        if inputs == 1:
            return self._one(entering, leaving, between, x[:, 0], 1)[:, None]
        return torch.stack([self._one(entering, leaving, between, x[:, i], inputs) for i in range(inputs)], dim=1)

    def _one(
        self, entering: _Side, leaving: _Side, between: torch.Tensor, x: torch.Tensor, period: int
    ) -> torch.Tensor:
        inside, share, new = entering.resolve(x, period)
        if any(new):
            k, j = entering.count, leaving.count
            image = entering.images[:, k]
            self._normals.fill(image)
            if self._sign < 0:
                image.neg_()
            entering.keep(inside, share, new)
            if j:
                self._condition(image, leaving, between[:, :j], inside, share, entering.vectors[:, k])
        return entering.product()

    @staticmethod
    def _condition(
        image: torch.Tensor,
        leaving: _Side,
        between: torch.Tensor,
        inside: torch.Tensor,
        share: torch.Tensor,
        z: torch.Tensor,
    ) -> None:
        """Replace the part of W q that the other side has fixed, with q = (z − Σ inside_i q_i)·share."""
        k = inside.shape[1]
        known = (leaving.products(z) - _products(inside, between[:, :, :k])) * share[:, None]  # p_jᵀ W q
        leaving.add_span(image, known - leaving.along(image))
        between[:, :, k] = known
