/* The raster that flows between the terrain programs, and what they share.
 *
 * A `.tile` file is a horizontal band of a layer: 8 bytes of magic, the HEADER_FIELDS numbers of `struct raster` in order as
 * 32-bit big-endian, then the samples as 16-bit big-endian, row by row. Elevation bands carry one more row above and below
 * (the halo), except at the real borders of the model, so that a 3x3 kernel sees the same neighbours tiled and untiled. */
#ifndef TERRAIN_RASTER_H
#define TERRAIN_RASTER_H

#include <stdint.h>
#include <stdio.h>

/* Cells of the largest model, 4096 x 4096; a larger one is refused. It keeps every product below in 32 bits. */
#define CELLS_MAX (1u << 24)
/* Tiles of one model; more are refused. */
#define TILES_MAX 4096u
/* Samples per cell and axis of the contour layer, and of the picture that shows it. */
#define ZOOM 3u
/* Longest path made here; a longer one is refused. */
#define PATH_LEN_MAX 1024

enum layer { ELEVATION = 0, SLOPE = 1, HILLSHADE = 2, CONTOUR = 3, LAYERS = 4 };

#define HEADER_FIELDS 15
struct raster {
    uint32_t layer;       /* enum layer */
    uint32_t index;       /* which band, from 0 at the top */
    uint32_t tiles;       /* how many bands the model has */
    uint32_t width;       /* cells in a row */
    uint32_t height;      /* own rows of cells, without the halo */
    uint32_t row;         /* where the first own row stands in the model */
    uint32_t full_height; /* rows of the model */
    uint32_t above;       /* rows of halo, 0 or 1 */
    uint32_t below;
    uint32_t cell_x_mm; /* size of a cell in millimetres, west to east */
    uint32_t cell_y_mm; /* north to south */
    uint32_t zoom;      /* samples per cell and axis: 1, or ZOOM in the contour layer */
    uint32_t detail;    /* contour interval in metres; 0 in the other layers */
    uint32_t low;       /* lowest elevation of the whole model in metres */
    uint32_t high;      /* highest */
    uint16_t *samples;  /* (above + height + below) * zoom rows of width * zoom */
};

/* The name in front of every message. */
extern const char *program;

/* Prints `program: path: reason` and ends with code 2: the input, not the program, is at fault. */
__attribute__((noreturn, format(printf, 2, 3))) void refuse(const char *path, const char *reason, ...);
/* Memory of `bytes`, or a refusal that names the remedy. */
void *claim(size_t bytes);
/* Writes a whole file. */
void write_file(const char *path, const void *bytes, size_t len);
/* Reads a whole file of at most `max` bytes. */
uint8_t *read_file(const char *path, size_t max, size_t *len);
/* Takes `name N` out of the arguments; `fallback` when it is absent. */
long option(int *argc, char **argv, const char *name, long fallback, long min, long max);

/* Reads a tile and checks every field of it; refuses any layer but `wanted`. */
struct raster read_tile(const char *path, enum layer wanted);
void write_tile(const char *path, const struct raster *tile);
/* A raster of `layer` over the own rows of `tile`, without halo, with its samples allocated. */
struct raster like(const struct raster *tile, enum layer layer, uint32_t zoom);

/* The sample at a column and an own row; beyond the border of the model the border's sample goes on. */
int at(const struct raster *tile, int x, int y);

/* The two derivatives by Horn's 3x3 kernel, without unit (metres per metre): eastward and southward. */
struct gradient {
    double east;
    double south;
};
struct gradient horn(const struct raster *tile, int x, int y);

/* A smooth surface through the 3x3 neighbourhood (a quadratic B-spline), at sub-sample (sx, sy) of a cell, 0 <= s < ZOOM. */
struct surface {
    double value;
    double per_x; /* change per sub-sample eastward */
    double per_y; /* and southward */
};
struct surface spline(const struct raster *tile, int x, int y, unsigned sx, unsigned sy);

/* PNG with `channels` 1 (grey) or 3 (RGB) bytes per pixel. */
void write_png(const char *path, const uint8_t *pixels, uint32_t width, uint32_t height, unsigned channels);

#endif
