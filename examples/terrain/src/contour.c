/* contour [--interval METRES] IN.tile OUT.tile: lines of equal elevation, drawn with soft edges at ZOOM samples per cell.
 *
 * A sample is the line's coverage, 0 to 255, plus 256 on every fifth line. Lines lie half a metre below the round elevation, since
 * a plain of whole metres would otherwise be one big line. */
#include "raster.h"

#include <math.h>

#define MAJOR_EVERY 5
/* Half widths of the lines in samples. */
#define MINOR_HALF_WIDTH 0.55
#define MAJOR_HALF_WIDTH 0.95
/* Flattest ground, in metres per sample, on which a line still has its width; below it lines would spread. */
#define STEEPNESS_MIN 0.05

int main(int argc, char **argv) {
    program = "contour";
    long interval = option(&argc, argv, "--interval", 50, 1, UINT16_MAX);
    if (argc != 3) refuse("usage", "contour [--interval METRES] IN.tile OUT.tile");
    struct raster tile = read_tile(argv[1], ELEVATION);
    struct raster out = like(&tile, CONTOUR, ZOOM);
    out.detail = (uint32_t)interval;
    for (uint32_t y = 0; y < tile.height * ZOOM; y++) {
        for (uint32_t x = 0; x < tile.width * ZOOM; x++) {
            struct surface s = spline(&tile, (int)(x / ZOOM), (int)(y / ZOOM), x % ZOOM, y % ZOOM);
            double steepness = sqrt(s.per_x * s.per_x + s.per_y * s.per_y);
            double line = floor((s.value + 0.5) / (double)interval + 0.5);
            double distance = fabs(s.value + 0.5 - line * (double)interval) / fmax(steepness, STEEPNESS_MIN);
            int major = (long)line % MAJOR_EVERY == 0;
            double cover = (major ? MAJOR_HALF_WIDTH : MINOR_HALF_WIDTH) + 0.5 - distance;
            double kept = cover < 0 ? 0 : cover > 1 ? 1 : cover;
            uint16_t sample = (uint16_t)floor(kept * 255 + 0.5);
            out.samples[(size_t)y * out.width * ZOOM + x] = (uint16_t)(sample > 0 && major ? sample + 256 : sample);
        }
    }
    write_tile(argv[2], &out);
    return 0;
}
