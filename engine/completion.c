/* The best approximations of a rank of many matrices at once, one matrix in each lane of the processor's vectors.
 *
 * A matrix A with no more rows than columns is projected onto its largest left singular vectors: the eigenvectors of
 * A A^T, by Householder's tridiagonal form and the implicit QL method (Golub & Van Loan, Matrix Computations, 8.3).
 * All lanes take every step together; where a lane is done with it, it turns by an angle of zero. Hence no result
 * depends on which matrices share a call. All is in double precision: A A^T squares the ratios of singular values.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined __AVX512F__
enum { LANES = 8 };
#elif defined __AVX__
enum { LANES = 4 };
#else
enum { LANES = 2 };
#endif
enum { TILE = 4, TURNS = 128, TRIES = 64 };

typedef double Wide __attribute__((vector_size(8 * LANES)));
typedef int64_t Mask __attribute__((vector_size(8 * LANES))); /* what a comparison gives: -1 or 0 in each lane */

static const Wide ZERO = {0};

static inline Wide wide(double x) { return x - ZERO; }
static inline Wide pick(Mask mask, Wide yes, Wide no) { return (Wide)((mask & (Mask)yes) | (~mask & (Mask)no)); }
static inline Wide magnitude(Wide x) { return (Wide)((Mask)x & INT64_MAX); }
static inline Wide with_sign(Wide x, Wide sign) { return (Wide)((Mask)magnitude(x) | ((Mask)sign & INT64_MIN)); }

static inline Wide root(Wide x) {
    for (int lane = 0; lane < LANES; lane++) x[lane] = sqrt(x[lane]);
    return x;
}

static inline int64_t largest(Mask x) {
    int64_t found = x[0];
    for (int lane = 1; lane < LANES; lane++) found = x[lane] > found ? x[lane] : found;
    return found;
}

/* ---- products; every count of rows and columns is a multiple of TILE ---- */

typedef struct {
    const Wide *at;
    int64_t row, column; /* strides */
} Matrix;

/* TILE rows of x times the transpose of y, of ``rows`` rows, over the ``inner`` columns of both. */
static void multiply(Matrix x, Matrix y, int64_t rows, int64_t inner, Wide *to, int64_t stride) {
    for (int64_t j = 0; j < rows; j += TILE) {
        const Wide *left = x.at, *right = y.at + j * y.row;
        Wide sums[TILE][TILE] = {{{0}}};
        for (int64_t k = 0; k < inner; k++, left += x.column, right += y.column)
            for (int a = 0; a < TILE; a++)
                for (int b = 0; b < TILE; b++) sums[a][b] += left[a * x.row] * right[b * y.row];
        for (int a = 0; a < TILE; a++)
            for (int b = 0; b < TILE; b++) to[a * stride + j + b] = sums[a][b];
    }
}

/* ---- eigenvectors of symmetric matrices ---- */

/* Turns of neighbouring columns that are still to be done: a row of v meets many of them while it is in the cache. */
typedef struct {
    int64_t count, at[TURNS];
    Wide cosine[TURNS], sine[TURNS];
} Turns;

/* Of matrices n x n: v, first their lower triangle and last their eigenvectors, in columns; the diagonal d, last the
 * eigenvalues, in no order; e, what stands beside the diagonal; room for 2 n. */
typedef struct {
    int64_t n;
    Wide *v, *d, *e, *room;
    Turns *turns;
} Spectrum;

/* Reflect row after row onto its last place before the diagonal; the reflections stay below the diagonal of v, and
 * their scales in the room. */
static void tridiagonalise(const Spectrum *s) {
    int64_t n = s->n;
    Wide *restrict v = s->v, *restrict d = s->d, *restrict e = s->e, *restrict scale = s->room;
    for (int64_t i = n - 1; i > 0; i--) {
        Wide *restrict u = v + i * n, square = ZERO, overlap = ZERO;
        for (int64_t j = 0; j < i; j++) square += u[j] * u[j];
        Wide norm = with_sign(root(square), -u[i - 1]), half = square - u[i - 1] * norm;
        scale[i] = pick(half > DBL_MIN, 1 / half, ZERO);
        d[i] = u[i];
        u[i - 1] -= norm;
        for (int64_t j = 0; j < i; j++) {
            Wide sum = v[j * n + j] * u[j];
            for (int64_t k = 0; k < j; k++) {
                sum += v[j * n + k] * u[k];
                e[k] += v[j * n + k] * u[j];
            }
            e[j] = sum;
        }
        for (int64_t j = 0; j < i; j++) overlap += u[j] * e[j];
        overlap *= scale[i] / 2;
        for (int64_t j = 0; j < i; j++) e[j] = scale[i] * (e[j] - overlap * u[j]);
        for (int64_t j = 0; j < i; j++)
            for (int64_t k = 0; k <= j; k++) v[j * n + k] -= u[j] * e[k] + e[j] * u[k];
        e[i - 1] = norm;
    }
    d[0] = v[0];
    e[n - 1] = ZERO;
}

/* Multiply the reflections, in their place. */
static void expand(const Spectrum *s) {
    int64_t n = s->n;
    Wide *restrict v = s->v, *restrict scale = s->room, *restrict sums = scale + n;
    for (int64_t i = 0; i < n; i++) {
        Wide *restrict u = v + i * n;
        for (int64_t j = 0; j < i; j++) sums[j] = ZERO;
        for (int64_t k = 0; k < i; k++)
            for (int64_t j = 0; j < i; j++) sums[j] += u[k] * v[k * n + j];
        for (int64_t k = 0; k < i; k++)
            for (int64_t j = 0; j < i; j++) v[k * n + j] -= scale[i] * u[k] * sums[j];
        for (int64_t k = 0; k < i; k++) u[k] = v[k * n + i] = ZERO;
        u[i] = wide(1);
    }
}

/* Do the turns. TILE rows together, because one row's turns wait for each other. */
static void turn(const Spectrum *s) {
    Turns *turns = s->turns;
    for (int64_t n = s->n, row = 0; row < n; row += TILE) {
        Wide carried[TILE];
        for (int64_t k = 0; k < turns->count; k++) {
            Wide *restrict pair = s->v + row * n + turns->at[k], cosine = turns->cosine[k], sine = turns->sine[k];
            if (k == 0 || turns->at[k] + 1 != turns->at[k - 1])
                for (int r = 0; r < TILE; r++) carried[r] = pair[r * n + 1];
            for (int r = 0; r < TILE; r++) {
                Wide first = pair[r * n];
                pair[r * n + 1] = sine * first + cosine * carried[r];
                pair[r * n] = carried[r] = cosine * first - sine * carried[r];
            }
        }
    }
    turns->count = 0;
}

/* One step of the QL method on the block from l to each lane's ``end``, whose diagonal ends with ``corner``. */
static void sweep(const Spectrum *s, int64_t l, Mask end, Wide corner) {
    Wide *restrict d = s->d, *restrict e = s->e, sine = wide(1), cosine = wide(1), p = ZERO;
    Turns *turns = s->turns;
    Wide half = (d[l + 1] - d[l]) / (2 * e[l]); /* Wilkinson's shift */
    Wide g = corner - d[l] + e[l] / (half + with_sign(root(half * half + 1), half));
    for (int64_t i = largest(end) - 1; i >= l; i--) {
        Mask turned = end > i; /* no more than the lanes with a block: elsewhere the end is l */
        Wide f = sine * e[i], b = cosine * e[i], r = root(f * f + g * g);
        Mask flat = r == 0; /* an underflow: nothing is left to turn */
        Wide inverse = 1 / pick(flat, wide(1), r);
        sine = pick(turned, f * inverse, sine);
        cosine = pick(turned, pick(flat, wide(1), g * inverse), cosine);
        Wide rest = d[i + 1] - p, q = (d[i] - rest) * sine + 2 * cosine * b;
        p = pick(turned, sine * q, p);
        g = pick(turned, cosine * q - b, g);
        d[i + 1] = pick(turned, rest + p, d[i + 1]);
        e[i + 1] = pick(turned, pick(end > i + 1, r, ZERO), e[i + 1]);
        if (turns->count == TURNS) turn(s);
        turns->at[turns->count] = i;
        turns->sine[turns->count] = pick(turned, sine, ZERO);
        turns->cosine[turns->count++] = pick(turned, cosine, wide(1));
    }
    d[l] = pick(end > l, d[l] - p, d[l]);
    e[l] = pick(end > l, g, e[l]);
}

static void diagonalise(const Spectrum *s) {
    Wide *restrict d = s->d, *restrict e = s->e, negligible = ZERO;
    /* The trace of A A^T is no less than its largest eigenvalue, to whose precision all of it is known. */
    for (int64_t i = 0; i < s->n; i++) negligible += d[i];
    negligible *= DBL_EPSILON;
    s->turns->count = 0;
    for (int64_t l = 0; l + 1 < s->n; l++)
        for (int tries = 0; tries < TRIES; tries++) { /* three do; with a NaN none would */
            Mask end = (Mask){0} + (s->n - 1);
            Wide corner = d[s->n - 1];
            for (int64_t i = s->n - 2; i >= l; i--) {
                Mask ends = magnitude(e[i]) <= negligible;
                end = (ends & i) | (~ends & end);
                corner = pick(ends, d[i], corner);
            }
            if (largest(end) == l) break;
            sweep(s, l, end, corner);
        }
    turn(s);
}

/* The projector p onto the ``keep`` eigenvectors with the largest eigenvalues; equal ones count in their order. */
static void project(const Spectrum *s, int64_t keep, Wide *p) {
    int64_t n = s->n;
    for (int64_t j = 0; j < n; j++) {
        Mask before = {0};
        for (int64_t i = 0; i < n; i++) before -= i < j ? s->d[i] >= s->d[j] : s->d[i] > s->d[j];
        Mask kept = before < keep;
        for (int64_t i = 0; i < n; i++) s->v[i * n + j] = pick(kept, s->v[i * n + j], ZERO);
    }
    Matrix vectors = {s->v, n, 1};
    for (int64_t i = 0; i < n; i += TILE) multiply((Matrix){s->v + i * n, n, 1}, vectors, n, n, p + i * n, n);
}

/* ---- matrices into lanes and out of them ---- */

typedef struct {
    const float *from;
    float *to;
    int64_t rows, columns, keep;
} Call;

static int64_t padded(int64_t x) { return (x + TILE - 1) / TILE * TILE; }

/* Matrices from ``first`` on; the columns of zeros that make m of them, and rows and lanes of zeros, are there. */
static void pack(const Call *call, int64_t first, int64_t count, int64_t m, Wide *a) {
    const float *from = call->from + first * call->rows * call->columns;
    for (int64_t lane = 0; lane < count; lane++)
        for (int64_t i = 0; i < call->rows; i++)
            for (int64_t j = 0; j < call->columns; j++) a[i * m + j][lane] = *from++;
}

/* TILE rows from ``row`` on, as far as the matrices have them. */
static void unpack(const Call *call, int64_t first, int64_t count, int64_t row, int64_t m, const Wide *lines) {
    for (int64_t lane = 0; lane < count; lane++)
        for (int64_t i = row; i < row + TILE && i < call->rows; i++)
            for (int64_t j = 0; j < call->columns; j++)
                call->to[((first + lane) * call->rows + i) * call->columns + j] = (float)lines[(i - row) * m + j][lane];
}

/* Write the approximations of matrices begin to end - 1 at their place. 0, or -1: no memory. */
int truncate_rank(const Call *call, int64_t begin, int64_t end) {
    int64_t n = padded(call->rows), m = padded(call->columns);
    Turns *turns = aligned_alloc(sizeof(Wide), sizeof(Turns));
    Wide *a = aligned_alloc(sizeof(Wide), sizeof(Wide) * ((n + TILE) * m + 2 * n * n + 4 * n));
    if (!a || !turns) return free(a), free(turns), -1;
    Wide *lines = a + n * m, *p = lines + TILE * m, *v = p + n * n, *d = v + n * n;
    Spectrum spectrum = {n, v, d, d + n, d + 2 * n, turns};
    for (; begin < end; begin += LANES) {
        int64_t count = end - begin < LANES ? end - begin : LANES;
        memset(a, 0, sizeof(Wide) * n * m);
        pack(call, begin, count, m, a);
        for (int64_t i = 0; i < n; i += TILE)
            multiply((Matrix){a + i * m, m, 1}, (Matrix){a, m, 1}, i + TILE, m, v + i * n, n);
        tridiagonalise(&spectrum);
        expand(&spectrum);
        diagonalise(&spectrum);
        project(&spectrum, call->keep, p);
        for (int64_t i = 0; i < n; i += TILE) {
            multiply((Matrix){p + i * n, n, 1}, (Matrix){a, 1, m}, m, n, lines, m);
            unpack(call, begin, count, i, m, lines);
        }
    }
    return free(a), free(turns), 0;
}
