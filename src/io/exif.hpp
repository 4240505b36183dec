#pragma once

#include <string_view>

namespace deepcache {

/// How the first row and column of the stored pixels lie in the upright picture, 1 to 8, as Exif 2.3 (4.6.4.A,
/// "Orientation") numbers it; 1, which is upright, if the Exif data (a TIFF header and what follows) are damaged or
/// don't say.
int exif_orientation(std::string_view exif);

}  // namespace deepcache
