/* split --tiles N DEM.pgm DIR: cuts an elevation model into N horizontal bands DIR/band-0000.tile, each with its halo.
 *
 * The model is a binary PGM (P5) with elevations in metres and a comment `# cell_mm X Y` that gives the size of a cell. */
#include "raster.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct text {
    const char *path;
    const uint8_t *bytes;
    size_t len, next;
    unsigned long cell_x_mm, cell_y_mm;
};

static void comment(struct text *in) {
    char line[128] = {0};
    size_t n = 0;
    while (in->next < in->len && in->bytes[in->next] != '\n') {
        if (n + 1 < sizeof line) line[n++] = (char)in->bytes[in->next];
        in->next++;
    }
    sscanf(line, "# cell_mm %9lu %9lu", &in->cell_x_mm, &in->cell_y_mm);
}

/* The next number of the header, past white space and comments. */
static uint32_t number(struct text *in, const char *what, uint32_t max) {
    while (in->next < in->len && (isspace(in->bytes[in->next]) || in->bytes[in->next] == '#')) {
        if (in->bytes[in->next] == '#') comment(in);
        else in->next++;
    }
    uint64_t value = 0;
    size_t start = in->next;
    while (in->next < in->len && isdigit(in->bytes[in->next]) && value <= max) {
        value = value * 10 + (in->bytes[in->next++] - '0');
    }
    if (in->next == start) refuse(in->path, "the PGM header has no %s", what);
    if (value == 0 || value > max) refuse(in->path, "a %s of %llu, it must be within 1 and %u", what, (unsigned long long)value, max);
    return (uint32_t)value;
}

static struct raster read_pgm(const char *path) {
    struct text in = {.path = path};
    in.bytes = read_file(path, 2 * (size_t)CELLS_MAX + 4096, &in.len);
    if (in.len < 2 || memcmp(in.bytes, "P5", 2) != 0) refuse(path, "not a binary PGM (P5)");
    in.next = 2;
    struct raster model = {.layer = ELEVATION, .zoom = 1, .tiles = 1};
    model.width = number(&in, "width", CELLS_MAX);
    model.height = model.full_height = number(&in, "height", CELLS_MAX);
    uint32_t depth = number(&in, "largest value", UINT16_MAX) > UINT8_MAX ? 2 : 1;
    if ((uint64_t)model.width * model.height > CELLS_MAX) {
        refuse(path, "%u x %u cells, at most %u are taken: cut it or lower its resolution", model.width, model.height, CELLS_MAX);
    }
    if (in.cell_x_mm == 0 || in.cell_y_mm == 0) {
        refuse(path, "the size of a cell is missing: add a comment line `# cell_mm X Y` (millimetres) after `P5`");
    }
    model.cell_x_mm = (uint32_t)in.cell_x_mm;
    model.cell_y_mm = (uint32_t)in.cell_y_mm;
    size_t cells = (size_t)model.width * model.height, have = in.len - in.next;
    if (have != 1 + cells * depth) refuse(path, "%zu bytes follow the PGM header, but %zu are due", have, 1 + cells * depth);
    const uint8_t *p = in.bytes + in.next + 1;
    model.samples = claim(cells * sizeof *model.samples);
    model.low = UINT16_MAX;
    for (size_t i = 0; i < cells; i++) {
        uint16_t z = depth == 2 ? (uint16_t)(p[2 * i] << 8 | p[2 * i + 1]) : p[i];
        model.samples[i] = z;
        if (z < model.low) model.low = z;
        if (z > model.high) model.high = z;
    }
    return model;
}

int main(int argc, char **argv) {
    program = "split";
    uint32_t tiles = (uint32_t)option(&argc, argv, "--tiles", 1, 1, TILES_MAX);
    if (argc != 3) refuse("usage", "split --tiles N DEM.pgm DIR");
    struct raster model = read_pgm(argv[1]);
    if (tiles > model.height) refuse(argv[1], "%u tiles of %u rows: at most one tile per row", tiles, model.height);
    if (mkdir(argv[2], 0777) != 0 && errno != EEXIST) refuse(argv[2], "%s", strerror(errno));
    for (uint32_t i = 0; i < tiles; i++) {
        char path[PATH_LEN_MAX];
        struct raster band = model;
        band.index = i;
        band.tiles = tiles;
        band.row = (uint32_t)((uint64_t)model.height * i / tiles);
        uint32_t end = (uint32_t)((uint64_t)model.height * (i + 1) / tiles);
        band.height = end - band.row;
        band.above = band.row > 0;
        band.below = end < model.height;
        band.samples = model.samples + (size_t)(band.row - band.above) * model.width;
        if (snprintf(path, sizeof path, "%s/band-%04u.tile", argv[2], i) >= (int)sizeof path) refuse(argv[2], "the path is too long");
        write_tile(path, &band);
    }
    return 0;
}
