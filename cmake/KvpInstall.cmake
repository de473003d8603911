# cmake --install: library, headers, command, and what find_package and pkg-config read.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kvpager)

install(TARGETS kvpager EXPORT kvpagerTargets)
foreach(header IN LISTS public_headers)
    get_filename_component(folder ${header} DIRECTORY)
    string(REGEX REPLACE "^include" "${CMAKE_INSTALL_INCLUDEDIR}" folder ${folder})
    install(FILES ${header} DESTINATION ${folder})
endforeach()
install(EXPORT kvpagerTargets NAMESPACE kvpager:: DESTINATION ${package_dir})

configure_package_config_file(cmake/kvpagerConfig.cmake.in kvpagerConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(kvpagerConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/kvpagerConfig.cmake
              ${PROJECT_BINARY_DIR}/kvpagerConfigVersion.cmake DESTINATION ${package_dir})

# Relative, so that an installed tree may be moved.
file(RELATIVE_PATH pc_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
list(JOIN KVP_MODULES " " pc_requires)
if(BUILD_SHARED_LIBS)
    set(pc_private "Libs.private: -lm -pthread\nRequires.private: ${pc_requires}")
else() # no libkvpager.so: whoever links, links statically, and should not need to say so
    set(pc_libs " -lm -pthread")
    set(pc_private "Requires: ${pc_requires}")
endif()
configure_file(cmake/kvpager.pc.in kvpager.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvpager.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
