/* hillshade [--azimuth DEGREES] [--altitude DEGREES] [--exaggerate FACTOR] IN.tile OUT.tile: light on the relief, 0 to 255.
 *
 * The azimuth is the sun's compass direction, the altitude its height above the horizon. */
#include "raster.h"

#include <math.h>

#define RADIANS_PER_DEGREE 0.017453292519943295769

int main(int argc, char **argv) {
    program = "hillshade";
    double azimuth = (double)option(&argc, argv, "--azimuth", 315, 0, 360) * RADIANS_PER_DEGREE;
    double altitude = (double)option(&argc, argv, "--altitude", 45, 0, 90) * RADIANS_PER_DEGREE;
    double factor = (double)option(&argc, argv, "--exaggerate", 1, 1, 100);
    if (argc != 3) refuse("usage", "hillshade [--azimuth DEGREES] [--altitude DEGREES] [--exaggerate FACTOR] IN.tile OUT.tile");
    struct raster tile = read_tile(argv[1], ELEVATION);
    struct raster out = like(&tile, HILLSHADE, 1);
    double east = sin(azimuth) * cos(altitude), north = cos(azimuth) * cos(altitude), up = sin(altitude);
    for (uint32_t y = 0; y < tile.height; y++) {
        for (uint32_t x = 0; x < tile.width; x++) {
            struct gradient g = horn(&tile, (int)x, (int)y);
            double a = -g.east * factor, b = g.south * factor;
            double light = (a * east + b * north + up) / sqrt(a * a + b * b + 1);
            out.samples[(size_t)y * out.width + x] = (uint16_t)(light > 0 ? floor(light * 255 + 0.5) : 0);
        }
    }
    write_tile(argv[2], &out);
    return 0;
}
