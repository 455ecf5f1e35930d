# doctest::doctest and doctest_discover_tests: the system's doctest (Debian: doctest-dev, Homebrew: doctest), or one
# that is downloaded.
find_package(doctest 2.4.9 QUIET)
if(doctest_FOUND)
    include(${doctest_DIR}/doctest.cmake)
    if(CMAKE_CROSSCOMPILING)
        # The header by itself: beside it lies the C library of this machine.
        get_target_property(folder doctest::doctest INTERFACE_INCLUDE_DIRECTORIES)
        configure_file(${folder}/doctest/doctest.h ${CMAKE_BINARY_DIR}/include/doctest/doctest.h COPYONLY)
        set_target_properties(doctest::doctest PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${CMAKE_BINARY_DIR}/include)
    endif()
else()
    include(FetchContent)
    set(DOCTEST_WITH_TESTS OFF CACHE BOOL "")
    FetchContent_Declare(
        doctest
        URL https://github.com/doctest/doctest/archive/refs/tags/v2.4.12.tar.gz
        URL_HASH SHA256=73381c7aa4dee704bd935609668cf41880ea7f19fa0504a200e13b74999c2d70)
    FetchContent_MakeAvailable(doctest)
    include(${doctest_SOURCE_DIR}/scripts/cmake/doctest.cmake)
endif()
