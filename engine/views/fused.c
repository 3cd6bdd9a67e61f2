/* One augmented view per image in one pass: crop, resize, flip, colour jitter, grayscale; and its gradient.
 *
 * The mathematics of geometry.py and color.py, image by image, so that what lies between two operations stays
 * in the cache. Images are planar float RGB. Boxes are (top, left, height, width) in source pixels; they may be
 * fractional and may leave the image, which is black outside. Nothing here depends on which images share a call.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const float LUMA[3] = {0.299f, 0.587f, 0.114f}; /* color.py, GREY */
static const float SLACK = 1e-6f;                      /* perturbation.py, ROUNDING */
enum { BRIGHTNESS, CONTRAST, SATURATION, HUE, SLOTS };
enum { LANES = 16, LINES = 4 };
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* ---- geometry: one axis' linear map, twice ---- */

/* Output o is the sum over k of weights[k * size + o] * source[first[o] + k]. The blocks hold the same map for
 * LANES outputs at a time: block b is the sum over j of blocks[(at[b] + j) * LANES ...] * source[begin[b] + j]. */
typedef struct {
    int32_t *first, *count, *begin, *length, *at;
    float *weights, *blocks;
    int64_t size, reach, room, blocks_room;
} Taps;

static int64_t at_least(int64_t x, int64_t bound) { return x < bound ? bound : x; }
static int64_t at_most(int64_t x, int64_t bound) { return x > bound ? bound : x; }
static int64_t num_blocks(const Taps *taps) { return (taps->size + LANES - 1) / LANES; }

static int grow(float **memory, int64_t *room, int64_t needed) {
    if (needed > *room) {
        free(*memory);
        *memory = malloc(sizeof(float) * needed);
        *room = *memory ? needed : 0;
    }
    return *memory ? 0 : -1;
}

static int reserve(Taps *taps, int64_t size, int64_t reach) {
    taps->size = size;
    taps->reach = reach;
    /* The whole numbers follow the weights: int32 and float have one size. */
    if (grow(&taps->weights, &taps->room, size * (reach + 2) + 3 * num_blocks(taps))) return -1;
    taps->first = (int32_t *)(taps->weights + size * reach);
    taps->count = taps->first + size;
    taps->begin = taps->count + size;
    taps->length = taps->begin + num_blocks(taps);
    taps->at = taps->length + num_blocks(taps);
    memset(taps->weights, 0, sizeof(float) * size * (reach + 2));
    return 0;
}

/* Pillow, Resample.c, precompute_coeffs, with the triangle filter: half-pixel centres, support max(1, scale),
 * weights that sum to one over the crop's own pixels. In double precision: a float's place of pixel 200 is good to
 * 1e-5 only, and so would be the weights. */
static int make_taps(Taps *taps, double start, double length, int64_t source, int64_t out, int mirrored) {
    double scale = length / (double)out, support = scale > 1 ? scale : 1, steepness = 1 / support;
    if (reserve(taps, out, (int64_t)ceil(2 * support))) return -1;
    for (int64_t o = 0; o < out; o++) {
        int64_t place = mirrored ? out - 1 - o : o, kept = 0, low = -1;
        double centre = ((double)o + 0.5) * scale, total = 0;
        int64_t from = (int64_t)floor(start + centre - support - 0.5) + 1;
        for (int64_t j = from; j < from + taps->reach; j++) {
            double pixel = (double)j - start, weight = 1 - fabs(pixel + 0.5 - centre) * steepness;
            if (weight <= 0 || pixel <= -1 || pixel >= length) continue;
            total += weight; /* a black pixel outside the image counts as well */
            if (j < 0 || j >= source) continue;
            if (low < 0) low = j;
            taps->weights[kept++ * out + place] = (float)weight;
        }
        for (int64_t k = 0; k < kept; k++) taps->weights[k * out + place] *= (float)(1 / total);
        taps->first[place] = low < 0 ? 0 : (int32_t)low;
        taps->count[place] = (int32_t)kept;
    }
    return 0;
}

/* The transposed band: where each source pixel goes. Outputs that touch one pixel are neighbours. */
static int transpose_taps(const Taps *taps, Taps *back, int64_t source) {
    int64_t reach = 1;
    if (reserve(back, source, 1)) return -1;
    for (int64_t o = 0; o < taps->size; o++)
        for (int64_t k = 0; k < taps->count[o]; k++) reach = at_least(reach, ++back->count[taps->first[o] + k]);
    if (reserve(back, source, reach)) return -1;
    for (int64_t o = 0; o < taps->size; o++)
        for (int64_t k = 0; k < taps->count[o]; k++) {
            int64_t j = taps->first[o] + k;
            if (back->count[j] == 0) back->first[j] = (int32_t)o;
            back->weights[back->count[j]++ * source + j] = taps->weights[k * taps->size + o];
        }
    return 0;
}

static int make_blocks(Taps *taps) {
    int64_t total = 0;
    for (int64_t b = 0; b < num_blocks(taps); b++) {
        int64_t low = INT32_MAX, high = 0;
        for (int64_t o = b * LANES; o < at_most((b + 1) * LANES, taps->size); o++)
            if (taps->count[o]) {
                low = at_most(low, taps->first[o]);
                high = at_least(high, taps->first[o] + taps->count[o]);
            }
        taps->begin[b] = (int32_t)at_most(low, high);
        taps->length[b] = (int32_t)(high - taps->begin[b]);
        taps->at[b] = (int32_t)total;
        total += taps->length[b];
    }
    if (grow(&taps->blocks, &taps->blocks_room, at_least(total, 1) * LANES)) return -1;
    memset(taps->blocks, 0, sizeof(float) * total * LANES);
    for (int64_t o = 0; o < taps->size; o++) {
        int64_t b = o / LANES, row = taps->at[b] + taps->first[o] - taps->begin[b];
        for (int64_t k = 0; k < taps->count[o]; k++)
            taps->blocks[(row + k) * LANES + o % LANES] = taps->weights[k * taps->size + o];
    }
    return 0;
}

static inline void set_scaled(float *restrict to, const float *restrict from, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = weight * from[i];
}

static inline void add_scaled(float *restrict to, const float *restrict from, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += weight * from[i];
}

/* LINES lines of w to LINES lines of taps->size, each the given stride behind the one before. */
static void map_lines(const float *restrict lines, int64_t w, const Taps *taps, float *restrict to, int64_t stride) {
    for (int64_t b = 0; b < num_blocks(taps); b++) {
        const float *from = lines + taps->begin[b], *weights = taps->blocks + taps->at[b] * LANES;
        Lanes sums[LINES] = {{0}};
        for (int64_t j = 0; j < taps->length[b]; j++) {
            Lanes weight = *(const Lanes *)(weights + j * LANES);
            for (int l = 0; l < LINES; l++) sums[l] += weight * from[l * w + j];
        }
        int64_t valid = taps->size - b * LANES;
        for (int l = 0; l < LINES; l++)
            if (valid >= LANES) *(Lanes *)(to + l * stride + b * LANES) = sums[l];
            else memcpy(to + l * stride + b * LANES, &sums[l], sizeof(float) * valid);
    }
}

/* [3, h, w] to [3, rows->size, columns->size], LINES rows at a time; lines has room for 2 * LINES of the longest. */
static void resample(const float *restrict image, int64_t h, int64_t w, const Taps *rows, const Taps *columns,
                     float *restrict lines, float *restrict view) {
    int64_t out = columns->size;
    for (int64_t c = 0; c < 3; c++)
        for (int64_t start = 0; start < rows->size; start += LINES) {
            int64_t here = at_most(LINES, rows->size - start);
            for (int64_t o = start; o < start + here; o++) {
                float *line = lines + (o - start) * w;
                if (rows->count[o] == 0) memset(line, 0, sizeof(float) * w);
                for (int64_t k = 0; k < rows->count[o]; k++) {
                    const float *from = image + (c * h + rows->first[o] + k) * w;
                    float weight = rows->weights[k * rows->size + o];
                    if (k == 0) set_scaled(line, from, weight, w);
                    else add_scaled(line, from, weight, w);
                }
            }
            float *restrict to = view + (c * rows->size + start) * out, *restrict spare = lines + LINES * w;
            map_lines(lines, w, columns, here == LINES ? to : spare, out);
            if (here < LINES) memcpy(to, spare, sizeof(float) * here * out);
        }
}

/* ---- colour: brightness, contrast and saturation are clip(f x + own grey(x) + offset) ---- */

typedef struct {
    float f, own, offset;
} Blend;

static inline float unit(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
static inline int inside(float x) { return (x >= -SLACK) & (x <= 1 + SLACK); }
static inline float luma(float r, float g, float b) { return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b; }

static double sum(const float *x, int64_t n) {
    float lanes[LANES] = {0};
    double total = 0;
    int64_t whole = n - n % LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += x[i + l];
    for (int l = 0; l < LANES; l++) total += lanes[l];
    for (int64_t i = whole; i < n; i++) total += x[i];
    return total;
}

static Blend blend_of(int64_t operation, float factor, const float *x, int64_t n) {
    Blend b = {factor, 0, 0};
    if (operation == SATURATION) b.own = 1 - factor;
    if (operation == CONTRAST) {
        double mean = LUMA[0] * sum(x, n) + LUMA[1] * sum(x + n, n) + LUMA[2] * sum(x + 2 * n, n);
        b.offset = (1 - factor) * (float)(mean / (double)n);
    }
    return b;
}

static void blend(const float *restrict x, float *restrict y, int64_t n, Blend b) {
    for (int64_t i = 0; i < n; i++) {
        float shared = b.own * luma(x[i], x[n + i], x[2 * n + i]) + b.offset;
        for (int64_t c = 0; c < 3; c++) y[c * n + i] = unit(b.f * x[c * n + i] + shared);
    }
}

static void blend_backward(const float *restrict x, float *restrict g, int64_t n, Blend b, int64_t operation) {
    for (int64_t i = 0; i < n; i++) {
        float shared = b.own * luma(x[i], x[n + i], x[2 * n + i]) + b.offset;
        for (int64_t c = 0; c < 3; c++) g[c * n + i] = inside(b.f * x[c * n + i] + shared) ? g[c * n + i] : 0;
    }
    float lift = operation == CONTRAST ? (1 - b.f) * (float)(sum(g, 3 * n) / (double)n) : 0;
    for (int64_t i = 0; i < n; i++) {
        float own = b.own * (g[i] + g[n + i] + g[2 * n + i]) + lift;
        for (int64_t c = 0; c < 3; c++) g[c * n + i] = b.f * g[c * n + i] + LUMA[c] * own;
    }
}

/* A pixel's place on the hexagon of hues. Which channel is largest (the first of equals) and smallest (the last)
 * is kept as 0 or 1, so that choices are products and the loops over pixels become vectors. */
typedef struct {
    float value, chroma, across, inverse, turned;
    float red, green, blue, low_red, low_green, low_blue;
} Hexagon;

static inline Hexagon hexagon(float r, float g, float b, float shift) {
    Hexagon h;
    h.red = (r >= g) & (r >= b) ? 1 : 0;
    h.green = (r < g) & (g >= b) ? 1 : 0;
    h.blue = 1 - h.red - h.green;
    h.low_blue = (b <= r) & (b <= g) ? 1 : 0;
    h.low_green = (g < b) & (g <= r) ? 1 : 0;
    h.low_red = 1 - h.low_blue - h.low_green;
    h.value = h.red * r + h.green * g + h.blue * b;
    h.chroma = h.value - (h.low_red * r + h.low_green * g + h.low_blue * b);
    h.across = h.red * (g - b) + h.green * (b - r) + h.blue * (r - g);
    h.inverse = 1 / (h.chroma > 0 ? h.chroma : 1);
    h.turned = h.across * h.inverse + 2 * h.green + 4 * h.blue + 6 * shift;
    return h;
}

static inline float ramp(float turned, float phase) {
    float k = turned + phase;
    k -= 6 * floorf(k * (1 / 6.0f));
    return k < 4 - k ? k : 4 - k;
}

static inline float slope(float turned, float phase) {
    float k = turned + phase;
    k -= 6 * floorf(k * (1 / 6.0f));
    float rises = k <= 1 ? 1 : 0, falls = (k >= 3) & (k <= 4) ? 1 : 0;
    return rises - falls;
}

static void shift_hue(const float *restrict x, float *restrict y, int64_t n, float shift) {
    for (int64_t i = 0; i < n; i++) {
        Hexagon h = hexagon(x[i], x[n + i], x[2 * n + i], shift);
        y[i] = h.value - h.chroma * unit(ramp(h.turned, 5));
        y[n + i] = h.value - h.chroma * unit(ramp(h.turned, 3));
        y[2 * n + i] = h.value - h.chroma * unit(ramp(h.turned, 1));
    }
}

static void shift_hue_backward(const float *restrict x, float *restrict g, int64_t n, float shift) {
    for (int64_t i = 0; i < n; i++) {
        Hexagon h = hexagon(x[i], x[n + i], x[2 * n + i], shift);
        float gr = g[i], gg = g[n + i], gb = g[2 * n + i];
        float turn = gr * slope(h.turned, 5) + gg * slope(h.turned, 3) + gb * slope(h.turned, 1);
        turn *= h.chroma > 0 ? 1 : 0;
        float level = gr * unit(ramp(h.turned, 5)) + gg * unit(ramp(h.turned, 3)) + gb * unit(ramp(h.turned, 1));
        float chroma = turn * h.across * h.inverse - level, value = gr + gg + gb + chroma;
        g[i] = h.red * value + (h.green - h.blue) * turn - h.low_red * chroma;
        g[n + i] = h.green * value + (h.blue - h.red) * turn - h.low_green * chroma;
        g[2 * n + i] = h.blue * value + (h.red - h.green) * turn - h.low_blue * chroma;
    }
}

/* ---- one image ---- */

typedef struct {
    const float *images, *boxes, *factors;
    const int64_t *offsets, *sizes, *order;
    const uint8_t *flip, *grey;
    int64_t out, jitter; /* jitter: 0 leaves factors and order unread */
} Call;

typedef struct {
    Taps rows, columns, rows_back, columns_back;
    float *lines, *states, *grads;
} Room;

static int is_neutral(int64_t operation, float factor) { return factor == (operation == HUE ? 0.0f : 1.0f); }

/* Fill states[0] (the crop) to states[last]; operations[k] leads from state k to k + 1. Returns last or -1. */
static int run(const Call *call, int64_t b, Room *room, int64_t *operations) {
    int64_t h = call->sizes[2 * b], w = call->sizes[2 * b + 1], n = call->out * call->out;
    const float *box = call->boxes + 4 * b;
    if (make_taps(&room->rows, box[0], box[2], h, call->out, 0)) return -1;
    if (make_taps(&room->columns, box[1], box[3], w, call->out, call->flip[b])) return -1;
    if (make_blocks(&room->columns)) return -1;
    resample(call->images + call->offsets[b], h, w, &room->rows, &room->columns, room->lines, room->states);
    int last = 0;
    for (int slot = 0; call->jitter && slot < SLOTS; slot++) {
        int64_t operation = call->order[SLOTS * b + slot];
        float factor = call->factors[SLOTS * b + operation];
        if (is_neutral(operation, factor)) continue;
        const float *x = room->states + last * 3 * n;
        float *y = room->states + (last + 1) * 3 * n;
        if (operation == HUE) shift_hue(x, y, n, factor);
        else blend(x, y, n, blend_of(operation, factor, x, n));
        operations[last++] = operation;
    }
    return last;
}

static int open_room(const Call *call, int64_t begin, int64_t end, Room *room) {
    int64_t widest = call->out;
    for (int64_t b = begin; b < end; b++)
        if (call->sizes[2 * b + 1] > widest) widest = call->sizes[2 * b + 1];
    memset(room, 0, sizeof *room);
    room->lines = malloc(sizeof(float) * 2 * LINES * widest);
    room->states = malloc(sizeof(float) * (SLOTS + 1) * 3 * call->out * call->out);
    room->grads = malloc(sizeof(float) * 3 * call->out * call->out);
    return room->lines && room->states && room->grads ? 0 : -1;
}

static int close_room(Room *room, int status) {
    Taps *all[] = {&room->rows, &room->columns, &room->rows_back, &room->columns_back};
    for (int i = 0; i < 4; i++) free(all[i]->weights), free(all[i]->blocks);
    free(room->lines), free(room->states), free(room->grads);
    return status;
}

/* Write the views of images begin to end - 1 at their place: channels last, [batch, out, out, 3]. 0, or -1: no memory. */
int views_forward(const Call *call, int64_t begin, int64_t end, float *views) {
    Room room;
    int64_t n = call->out * call->out, operations[SLOTS];
    if (open_room(call, begin, end, &room)) return close_room(&room, -1);
    for (int64_t b = begin; b < end; b++) {
        int last = run(call, b, &room, operations);
        if (last < 0) return close_room(&room, -1);
        float *restrict view = views + b * 3 * n, *restrict x = room.states + last * 3 * n;
        if (call->grey[b])
            for (int64_t i = 0; i < n; i++)
                view[3 * i] = view[3 * i + 1] = view[3 * i + 2] = luma(x[i], x[n + i], x[2 * n + i]);
        else
            for (int64_t i = 0; i < n; i++)
                view[3 * i] = x[i], view[3 * i + 1] = x[n + i], view[3 * i + 2] = x[2 * n + i];
    }
    return close_room(&room, 0);
}

/* The gradient of one image's crop, in room->grads, from that of its view. */
static void colour_backward(const Call *call, int64_t b, Room *room, const int64_t *operations, int last) {
    int64_t n = call->out * call->out;
    float *restrict g = room->grads;
    if (call->grey[b])
        for (int64_t i = 0; i < n; i++) {
            float all = g[i] + g[n + i] + g[2 * n + i];
            for (int64_t c = 0; c < 3; c++) g[c * n + i] = LUMA[c] * all;
        }
    for (int step = last - 1; step >= 0; step--) {
        int64_t operation = operations[step];
        const float *x = room->states + step * 3 * n;
        float factor = call->factors[SLOTS * b + operation];
        if (operation == HUE) shift_hue_backward(x, g, n, factor);
        else blend_backward(x, g, n, blend_of(operation, factor, x, n), operation);
    }
}

/* Turn the gradients of those views, channels last, into the gradients of the images. */
int views_backward(const Call *call, int64_t begin, int64_t end, const float *grads, float *image_grads) {
    Room room;
    int64_t n = call->out * call->out, operations[SLOTS];
    if (open_room(call, begin, end, &room)) return close_room(&room, -1);
    for (int64_t b = begin; b < end; b++) {
        int64_t h = call->sizes[2 * b], w = call->sizes[2 * b + 1];
        int last = run(call, b, &room, operations);
        if (last < 0 || transpose_taps(&room.rows, &room.rows_back, h) ||
            transpose_taps(&room.columns, &room.columns_back, w) || make_blocks(&room.columns_back))
            return close_room(&room, -1);
        const float *restrict from = grads + b * 3 * n;
        float *restrict g = room.grads;
        for (int64_t i = 0; i < n; i++) g[i] = from[3 * i], g[n + i] = from[3 * i + 1], g[2 * n + i] = from[3 * i + 2];
        colour_backward(call, b, &room, operations, last);
        resample(g, call->out, call->out, &room.rows_back, &room.columns_back, room.lines,
                 image_grads + call->offsets[b]);
    }
    return close_room(&room, 0);
}
