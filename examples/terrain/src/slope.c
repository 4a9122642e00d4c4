/* slope IN.tile OUT.tile: the steepness of each cell in hundredths of a degree. */
#include "raster.h"

#include <math.h>

#define HUNDREDTHS_PER_RADIAN 5729.5779513082320877

int main(int argc, char **argv) {
    program = "slope";
    if (argc != 3) refuse("usage", "slope IN.tile OUT.tile");
    struct raster tile = read_tile(argv[1], ELEVATION);
    struct raster out = like(&tile, SLOPE, 1);
    for (uint32_t y = 0; y < tile.height; y++) {
        for (uint32_t x = 0; x < tile.width; x++) {
            struct gradient g = horn(&tile, (int)x, (int)y);
            double degrees = atan(sqrt(g.east * g.east + g.south * g.south)) * HUNDREDTHS_PER_RADIAN;
            out.samples[(size_t)y * out.width + x] = (uint16_t)floor(degrees + 0.5);
        }
    }
    write_tile(argv[2], &out);
    return 0;
}
