/* mosaic --elevation TILE... --slope TILE... --hillshade TILE... --contour TILE... --out DIR: joins the bands of every layer, in
 * order, and writes DIR/{terrain,slope,hillshade}.png, DIR/{slope,hillshade}.pgm and DIR/stats.json. */
#include "raster.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const NAMES[LAYERS] = {"--elevation", "--slope", "--hillshade", "--contour"};

/* Bands of one layer joined: the fields of the first band, stretched over the model. */
static struct raster join(char **paths, size_t n, enum layer layer) {
    if (n == 0) refuse(NAMES[layer], "no tiles given");
    struct raster whole = {0};
    uint32_t row = 0;
    for (size_t i = 0; i < n; i++) {
        struct raster band = read_tile(paths[i], layer);
        if (i == 0) {
            whole = band;
            whole.above = whole.below = 0;
            whole.height = whole.full_height;
            whole.samples = claim((size_t)whole.width * whole.zoom * whole.height * whole.zoom * sizeof *whole.samples);
        }
        if (band.tiles != n) refuse(paths[i], "one of %u tiles, but %zu are given", band.tiles, n);
        if (band.index != i || band.row != row) refuse(paths[i], "tile %u stands where tile %zu belongs", band.index, i);
        if (band.width != whole.width || band.full_height != whole.full_height || band.detail != whole.detail) {
            refuse(paths[i], "a tile of another model than %s", paths[0]);
        }
        size_t stride = (size_t)band.width * band.zoom;
        memcpy(whole.samples + row * band.zoom * stride, band.samples + band.above * stride,
               band.height * band.zoom * stride * sizeof *band.samples);
        row += band.height;
        free(band.samples);
    }
    if (row != whole.full_height) refuse(paths[n - 1], "the tiles end at row %u of %u", row, whole.full_height);
    return whole;
}

static const char *in(const char *dir, const char *name) {
    static char path[PATH_LEN_MAX];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) refuse(dir, "the path is too long");
    return path;
}

static void write_pgm(const char *path, const struct raster *layer, unsigned max) {
    size_t cells = (size_t)layer->width * layer->height, depth = max > 255 ? 2 : 1;
    char head[96];
    int head_len = snprintf(head, sizeof head, "P5\n# cell_mm %u %u\n%u %u\n%u\n", layer->cell_x_mm, layer->cell_y_mm, layer->width,
                            layer->height, max);
    uint8_t *bytes = claim((size_t)head_len + cells * depth), *p = bytes + head_len;
    memcpy(bytes, head, (size_t)head_len);
    for (size_t i = 0; i < cells; i++) {
        if (depth == 2) *p++ = (uint8_t)(layer->samples[i] >> 8);
        *p++ = (uint8_t)layer->samples[i];
    }
    write_file(path, bytes, (size_t)head_len + cells * depth);
    free(bytes);
}

/* ---- colours ---- */

struct stop {
    double at;
    uint8_t rgb[3];
};
static const struct stop RELIEF[] = {{0.00, {78, 128, 86}},   {0.15, {128, 163, 98}},  {0.32, {190, 197, 126}}, {0.48, {224, 205, 146}},
                                     {0.64, {201, 164, 112}}, {0.80, {158, 118, 84}},  {0.92, {170, 146, 128}}, {1.00, {240, 236, 232}}};
static const struct stop STEEP[] = {{0.00, {252, 252, 240}}, {0.20, {254, 224, 144}}, {0.45, {244, 130, 70}}, {0.70, {190, 40, 60}}, {1.00, {70, 8, 60}}};
static const double INK[3] = {84, 52, 28};

static void shade_of(const struct stop *stops, size_t n, double t, double rgb[3]) {
    size_t i = 1;
    while (i + 1 < n && stops[i].at < t) i++;
    double part = (t - stops[i - 1].at) / (stops[i].at - stops[i - 1].at);
    part = part < 0 ? 0 : part > 1 ? 1 : part;
    for (int c = 0; c < 3; c++) rgb[c] = stops[i - 1].rgb[c] + part * (stops[i].rgb[c] - stops[i - 1].rgb[c]);
}

static uint8_t to_byte(double value) { return (uint8_t)(value <= 0 ? 0 : value >= 255 ? 255 : floor(value + 0.5)); }

#define SHADE(stops, t, rgb) shade_of(stops, sizeof(stops) / sizeof *(stops), t, rgb)

/* Colour by elevation, lit by the hillshade, with the contour lines in brown ink. */
static void draw_terrain(const char *path, const struct raster layers[LAYERS]) {
    const struct raster *ground = &layers[ELEVATION], *light = &layers[HILLSHADE], *lines = &layers[CONTOUR];
    uint32_t width = ground->width * ZOOM, height = ground->height * ZOOM;
    double span = ground->high > ground->low ? ground->high - ground->low : 1;
    uint8_t *pixels = claim((size_t)width * height * 3), *p = pixels;
    for (uint32_t y = 0; y < height; y++) {
        for (uint32_t x = 0; x < width; x++) {
            int column = (int)(x / ZOOM), line = (int)(y / ZOOM);
            double z = spline(ground, column, line, x % ZOOM, y % ZOOM).value;
            double lit = spline(light, column, line, x % ZOOM, y % ZOOM).value / 255;
            double rgb[3];
            SHADE(RELIEF, (z - ground->low) / span, rgb);
            uint16_t sample = lines->samples[(size_t)y * width + x];
            double ink = (sample & 255) / 255.0 * (sample > 255 ? 0.62 : 0.34);
            for (int c = 0; c < 3; c++) {
                double colour = rgb[c] * (0.30 + 0.98 * lit);
                *p++ = to_byte(colour + (INK[c] * (0.5 + 0.5 * lit) - colour) * ink);
            }
        }
    }
    write_png(path, pixels, width, height, 3);
    free(pixels);
}

static void draw_slope(const char *path, const struct raster *slope, unsigned steepest) {
    size_t cells = (size_t)slope->width * slope->height;
    uint8_t *pixels = claim(cells * 3), *p = pixels;
    for (size_t i = 0; i < cells; i++) {
        double rgb[3];
        SHADE(STEEP, (double)slope->samples[i] / (steepest ? steepest : 1), rgb);
        for (int c = 0; c < 3; c++) *p++ = to_byte(rgb[c]);
    }
    write_png(path, pixels, slope->width, slope->height, 3);
    free(pixels);
}

static void draw_hillshade(const char *path, const struct raster *light) {
    size_t cells = (size_t)light->width * light->height;
    uint8_t *pixels = claim(cells);
    for (size_t i = 0; i < cells; i++) pixels[i] = to_byte(light->samples[i]);
    write_png(path, pixels, light->width, light->height, 1);
    free(pixels);
}

/* ---- figures ---- */

struct range {
    unsigned min, max;
    double mean;
};

static struct range range_of(const struct raster *layer) {
    size_t cells = (size_t)layer->width * layer->height;
    uint64_t sum = 0;
    struct range range = {UINT_MAX, 0, 0};
    for (size_t i = 0; i < cells; i++) {
        unsigned sample = layer->samples[i];
        sum += sample;
        if (sample < range.min) range.min = sample;
        if (sample > range.max) range.max = sample;
    }
    range.mean = (double)sum / (double)cells;
    return range;
}

#define BIN_DEGREES 5u
#define BINS (90u / BIN_DEGREES)

static void write_stats(const char *path, const struct raster layers[LAYERS]) {
    const struct raster *ground = &layers[ELEVATION], *slope = &layers[SLOPE], *lines = &layers[CONTOUR];
    struct range z = range_of(ground), steep = range_of(slope), light = range_of(&layers[HILLSHADE]);
    unsigned bins[BINS] = {0}, used = 1;
    for (size_t i = 0; i < (size_t)slope->width * slope->height; i++) {
        unsigned bin = slope->samples[i] / (100 * BIN_DEGREES);
        bins[bin < BINS ? bin : BINS - 1]++;
    }
    for (unsigned i = 0; i < BINS; i++) {
        if (bins[i]) used = i + 1;
    }
    size_t inked = 0, drawn = (size_t)lines->width * lines->height * ZOOM * ZOOM;
    for (size_t i = 0; i < drawn; i++) inked += lines->samples[i] > 0;
    char text[4096];
    int n = snprintf(text, sizeof text,
                     "{\n \"width\": %u,\n \"height\": %u,\n \"cell_m\": [%.3f, %.3f],\n \"area_km2\": %.2f,\n"
                     " \"elevation_m\": {\"min\": %u, \"max\": %u, \"mean\": %.3f},\n"
                     " \"slope_deg\": {\"min\": %.2f, \"max\": %.2f, \"mean\": %.3f, \"histogram\": [",
                     ground->width, ground->height, ground->cell_x_mm / 1000.0, ground->cell_y_mm / 1000.0,
                     ground->cell_x_mm / 1e6 * (ground->cell_y_mm / 1e6) * ground->width * ground->height, z.min, z.max, z.mean,
                     steep.min / 100.0, steep.max / 100.0, steep.mean / 100);
    for (unsigned i = 0; i < used; i++) {
        n += snprintf(text + n, sizeof text - (size_t)n, "%s{\"from\": %u, \"to\": %u, \"cells\": %u}", i ? ", " : "", i * BIN_DEGREES,
                      (i + 1) * BIN_DEGREES, bins[i]);
    }
    n += snprintf(text + n, sizeof text - (size_t)n,
                  "]},\n \"hillshade\": {\"min\": %u, \"max\": %u, \"mean\": %.3f},\n"
                  " \"contour\": {\"interval_m\": %u, \"levels\": %u, \"inked_percent\": %.2f}\n}\n",
                  light.min, light.max, light.mean, lines->detail, z.max / lines->detail - (z.min + lines->detail - 1) / lines->detail + 1,
                  100.0 * (double)inked / (double)drawn);
    write_file(path, text, (size_t)n);
}

/* ---- arguments ---- */

/* The arguments that follow `name`, up to the next option. */
static char **list_of(int argc, char **argv, const char *name, size_t *n) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], name) != 0) continue;
        *n = 0;
        while (i + 1 + (int)*n < argc && strncmp(argv[i + 1 + (int)*n], "--", 2) != 0) ++*n;
        return argv + i + 1;
    }
    refuse("usage", "mosaic --elevation TILE... --slope TILE... --hillshade TILE... --contour TILE... --out DIR (no %s given)", name);
}

int main(int argc, char **argv) {
    program = "mosaic";
    struct raster layers[LAYERS];
    size_t n;
    for (int i = 0; i < LAYERS; i++) {
        char **paths = list_of(argc, argv, NAMES[i], &n);
        layers[i] = join(paths, n, (enum layer)i);
        if (layers[i].width != layers[0].width || layers[i].height != layers[0].height) {
            refuse(paths[0], "%u x %u cells, but the elevation has %u x %u", layers[i].width, layers[i].height, layers[0].width,
                   layers[0].height);
        }
    }
    const char *dir = *list_of(argc, argv, "--out", &n);
    if (n != 1) refuse("--out", "needs one directory");
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) refuse(dir, "%s", strerror(errno));
    draw_terrain(in(dir, "terrain.png"), layers);
    draw_slope(in(dir, "slope.png"), &layers[SLOPE], range_of(&layers[SLOPE]).max);
    draw_hillshade(in(dir, "hillshade.png"), &layers[HILLSHADE]);
    write_pgm(in(dir, "slope.pgm"), &layers[SLOPE], UINT16_MAX);
    write_pgm(in(dir, "hillshade.pgm"), &layers[HILLSHADE], UINT8_MAX);
    write_stats(in(dir, "stats.json"), layers);
    return 0;
}
