#include "raster.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char MAGIC[8] = {'O', 'C', 'T', 'I', 'L', 'E', '1', '\n'};
static const char *const LAYER_NAMES[LAYERS] = {"elevation", "slope", "hillshade", "contour"};
#define HEADER_LEN (sizeof MAGIC + 4 * HEADER_FIELDS)

const char *program = "terrain";

void refuse(const char *path, const char *reason, ...) {
    va_list facts;
    fprintf(stderr, "%s: %s: ", program, path);
    va_start(facts, reason);
    vfprintf(stderr, reason, facts);
    va_end(facts);
    fputc('\n', stderr);
    exit(2);
}

void *claim(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) refuse("memory", "%zu more bytes are not to be had: raise `needs.memory` of this step", bytes);
    return memory;
}

uint8_t *read_file(const char *path, size_t max, size_t *len) {
    FILE *file = fopen(path, "rb");
    if (!file) refuse(path, "%s", strerror(errno));
    size_t room = 1 << 16, used = 0;
    uint8_t *bytes = claim(room);
    for (;;) {
        used += fread(bytes + used, 1, room - used, file);
        if (ferror(file)) refuse(path, "%s", strerror(errno));
        if (used > max) refuse(path, "longer than %zu bytes", max);
        if (used < room) break;
        uint8_t *larger = realloc(bytes, room * 2);
        if (!larger) refuse(path, "%zu bytes do not fit into memory: raise `needs.memory` of this step", room * 2);
        bytes = larger;
        room *= 2;
    }
    fclose(file);
    *len = used;
    return bytes;
}

void write_file(const char *path, const void *bytes, size_t len) {
    FILE *file = fopen(path, "wb");
    if (!file) refuse(path, "%s", strerror(errno));
    size_t written = fwrite(bytes, 1, len, file);
    if (fclose(file) != 0 || written != len) refuse(path, "%s", strerror(errno));
}

long option(int *argc, char **argv, const char *name, long fallback, long min, long max) {
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], name) != 0) continue;
        if (i + 1 >= *argc) refuse(name, "needs a number");
        char *end;
        errno = 0;
        long number = strtol(argv[i + 1], &end, 10);
        if (*argv[i + 1] == 0 || *end != 0 || errno != 0) refuse(name, "`%s` is not a whole number", argv[i + 1]);
        if (number < min || number > max) refuse(name, "%ld is not within %ld and %ld", number, min, max);
        memmove(argv + i, argv + i + 2, (size_t)(*argc - i - 1) * sizeof *argv);
        *argc -= 2;
        return number;
    }
    return fallback;
}

static uint32_t *field(struct raster *tile, int i) {
    uint32_t *const fields[HEADER_FIELDS] = {
        &tile->layer,     &tile->index,     &tile->tiles, &tile->width, &tile->height,
        &tile->row,       &tile->full_height, &tile->above, &tile->below, &tile->cell_x_mm,
        &tile->cell_y_mm, &tile->zoom,      &tile->detail, &tile->low,  &tile->high,
    };
    return fields[i];
}

static size_t samples_in(const struct raster *tile) {
    return (size_t)tile->width * tile->zoom * (tile->above + tile->height + tile->below) * tile->zoom;
}

/* What is wrong with the header; NULL when nothing is. */
static const char *fault(const struct raster *tile) {
    if (tile->width == 0 || tile->height == 0) return "it has no cells";
    if ((uint64_t)tile->width * tile->full_height > CELLS_MAX) return "the model has too many cells";
    if (tile->row >= tile->full_height || tile->height > tile->full_height - tile->row) return "its rows are outside the model";
    if (tile->tiles == 0 || tile->tiles > TILES_MAX || tile->index >= tile->tiles) return "its index is not one of the tiles";
    if (tile->cell_x_mm == 0 || tile->cell_y_mm == 0) return "its cells have no size";
    if (tile->low > tile->high || tile->high > UINT16_MAX) return "its range of elevations is impossible";
    int is_contour = tile->layer == CONTOUR;
    if (tile->zoom != (is_contour ? ZOOM : 1) || (tile->detail != 0) != is_contour) return "it is zoomed as no such layer is";
    int has_halo = tile->layer == ELEVATION;
    if (tile->above != (has_halo && tile->row > 0)) return "its halo above is not what its place asks for";
    if (tile->below != (has_halo && tile->row + tile->height < tile->full_height)) return "its halo below is not what its place asks for";
    return NULL;
}

struct raster read_tile(const char *path, enum layer wanted) {
    size_t len;
    uint8_t *bytes = read_file(path, HEADER_LEN + 2 * (size_t)ZOOM * ZOOM * CELLS_MAX, &len);
    if (len < HEADER_LEN || memcmp(bytes, MAGIC, sizeof MAGIC) != 0) refuse(path, "not a tile");
    struct raster tile;
    for (int i = 0; i < HEADER_FIELDS; i++) {
        const uint8_t *p = bytes + sizeof MAGIC + 4 * i;
        *field(&tile, i) = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    if (tile.layer >= LAYERS) refuse(path, "a tile of an unknown layer (%u)", tile.layer);
    if (tile.layer != (uint32_t)wanted) refuse(path, "a tile of the %s layer, not of %s", LAYER_NAMES[tile.layer], LAYER_NAMES[wanted]);
    const char *why = fault(&tile);
    if (why) refuse(path, "a damaged tile: %s", why);
    size_t n = samples_in(&tile);
    if (len != HEADER_LEN + 2 * n) refuse(path, "%zu bytes, but its header says %zu", len, HEADER_LEN + 2 * n);
    tile.samples = claim(n * sizeof *tile.samples);
    const uint8_t *p = bytes + HEADER_LEN;
    for (size_t i = 0; i < n; i++) tile.samples[i] = (uint16_t)(p[2 * i] << 8 | p[2 * i + 1]);
    free(bytes);
    return tile;
}

void write_tile(const char *path, const struct raster *tile) {
    struct raster copy = *tile;
    size_t n = samples_in(tile), len = HEADER_LEN + 2 * n;
    uint8_t *bytes = claim(len), *p = bytes + sizeof MAGIC;
    memcpy(bytes, MAGIC, sizeof MAGIC);
    for (int i = 0; i < HEADER_FIELDS; i++) {
        uint32_t value = *field(&copy, i);
        for (int shift = 24; shift >= 0; shift -= 8) *p++ = (uint8_t)(value >> shift);
    }
    for (size_t i = 0; i < n; i++) {
        *p++ = (uint8_t)(tile->samples[i] >> 8);
        *p++ = (uint8_t)tile->samples[i];
    }
    write_file(path, bytes, len);
    free(bytes);
}

struct raster like(const struct raster *tile, enum layer layer, uint32_t zoom) {
    struct raster made = *tile;
    made.layer = layer;
    made.above = made.below = 0;
    made.zoom = zoom;
    made.samples = claim(samples_in(&made) * sizeof *made.samples);
    return made;
}

static int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

int at(const struct raster *tile, int x, int y) {
    int column = clamp(x, 0, (int)tile->width - 1);
    int line = clamp(y, -(int)tile->above, (int)(tile->height + tile->below) - 1);
    return tile->samples[(size_t)(line + (int)tile->above) * tile->width + (size_t)column];
}

struct gradient horn(const struct raster *tile, int x, int y) {
    int nw = at(tile, x - 1, y - 1), n = at(tile, x, y - 1), ne = at(tile, x + 1, y - 1);
    int w = at(tile, x - 1, y), e = at(tile, x + 1, y);
    int sw = at(tile, x - 1, y + 1), s = at(tile, x, y + 1), se = at(tile, x + 1, y + 1);
    int east = (ne + 2 * e + se) - (nw + 2 * w + sw);
    int south = (sw + 2 * s + se) - (nw + 2 * n + ne);
    return (struct gradient){
        .east = east * 125.0 / tile->cell_x_mm, /* metres per eight cells of so many millimetres: 1000 / 8 */
        .south = south * 125.0 / tile->cell_y_mm,
    };
}

/* The B-spline's weights and their derivatives at distance t from the middle sample, -0.5 <= t <= 0.5. */
static void weights(double t, double weight[3], double slope[3]) {
    weight[0] = 0.5 * (0.5 - t) * (0.5 - t);
    weight[1] = 0.75 - t * t;
    weight[2] = 0.5 * (0.5 + t) * (0.5 + t);
    slope[0] = t - 0.5;
    slope[1] = -2 * t;
    slope[2] = t + 0.5;
}

struct surface spline(const struct raster *tile, int x, int y, unsigned sx, unsigned sy) {
    double wx[3], dx[3], wy[3], dy[3];
    weights((sx + 0.5) / ZOOM - 0.5, wx, dx);
    weights((sy + 0.5) / ZOOM - 0.5, wy, dy);
    struct surface sum = {0, 0, 0};
    for (int j = 0; j < 3; j++) {
        for (int i = 0; i < 3; i++) {
            double z = at(tile, x + i - 1, y + j - 1);
            sum.value += wx[i] * wy[j] * z;
            sum.per_x += dx[i] * wy[j] * z / ZOOM;
            sum.per_y += wx[i] * dy[j] * z / ZOOM;
        }
    }
    return sum;
}
