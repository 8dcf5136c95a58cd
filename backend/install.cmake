# The library of all rooms, and what `cmake --install` puts where: library, public headers, pumice.pc, the CMake package, programs.
# Nothing installed holds the prefix: it may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(libpumice $<TARGET_OBJECTS:pm_base> $<TARGET_OBJECTS:pm_loader> $<TARGET_OBJECTS:pm_host> $<TARGET_OBJECTS:pm_backend>)
add_library(pumice::pumice ALIAS libpumice)
set_target_properties(libpumice PROPERTIES OUTPUT_NAME pumice EXPORT_NAME pumice LINKER_LANGUAGE C VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} WINDOWS_EXPORT_ALL_SYMBOLS ON)
target_link_libraries(libpumice PRIVATE PkgConfig::CJSON PkgConfig::PCRE2 PkgConfig::UTF8PROC Threads::Threads ${CMAKE_DL_LIBS} ${math})
target_include_directories(libpumice INTERFACE $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# Names of ours that are no API, and volk's vk*, must not meet a program's own. In a shared library they are hidden; a static one
# gets the same by joining its objects into one, in which all hidden names are made local.
if(NOT BUILD_SHARED_LIBS AND CMAKE_OBJCOPY AND CMAKE_EXECUTABLE_FORMAT STREQUAL "ELF")
  add_custom_command(TARGET libpumice POST_BUILD
    COMMAND ${CMAKE_C_COMPILER} -r -nostdlib -o libpumice.o -Wl,--whole-archive $<TARGET_FILE:libpumice>
    COMMAND ${CMAKE_OBJCOPY} --localize-hidden libpumice.o
    COMMAND ${CMAKE_COMMAND} -E rm $<TARGET_FILE:libpumice>
    COMMAND ${CMAKE_AR} rcs $<TARGET_FILE:libpumice> libpumice.o
    BYPRODUCTS libpumice.o VERBATIM)
endif()

# The public headers lie side by side where they are installed.
foreach(header backend/pumice.h backend/text.h host/device.h host/status.h loader/config.h)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${header})
  get_filename_component(name ${header} NAME)
  file(READ ${PROJECT_SOURCE_DIR}/${header} text)
  string(REGEX REPLACE "#include \"[a-z]+/" "#include \"" text "${text}")
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/include/pumice/${name} CONTENT "${text}" @ONLY)
endforeach()
install(DIRECTORY ${PROJECT_BINARY_DIR}/include/pumice DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# libdir and includedir as seen from the prefix, and the prefix as seen from pumice.pc
file(RELATIVE_PATH pc_libdir ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_LIBDIR})
file(RELATIVE_PATH pc_includedir ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
file(RELATIVE_PATH pc_up ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" pc_up ${pc_up})
list(TRANSFORM CMAKE_DL_LIBS PREPEND -l OUTPUT_VARIABLE pc_dl)
configure_file(backend/pumice.pc.in pumice.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/pumice.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/pumice)
configure_package_config_file(backend/pumice-config.cmake.in pumice-config.cmake INSTALL_DESTINATION ${package}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(pumice-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/pumice-config.cmake ${PROJECT_BINARY_DIR}/pumice-config-version.cmake DESTINATION ${package})

install(TARGETS libpumice EXPORT pumice-targets)
install(EXPORT pumice-targets NAMESPACE pumice:: DESTINATION ${package})
install(TARGETS pumice pumice-bench)
