# What `cmake --install` puts where, and the Debian package (cpack -G DEB in build/release). Of a tree that
# scripts/build.sh has built: the guest kernels and the root file system are in artifacts/.
install(TARGETS mayfly mayfly-filter mayfly-init mayfly-jailer mayfly-vmm DESTINATION bin)
install(FILES artifacts/vmlinux artifacts/vmlinux-smp artifacts/rootfs.ext4 DESTINATION share/mayfly)
install(FILES scripts/mayfly@.service DESTINATION lib/systemd/system)
install(FILES README.md LICENSE DESTINATION share/doc/mayfly)
install(FILES LICENSE DESTINATION share/doc/mayfly RENAME copyright)

add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/man
  COMMAND ${CMAKE_COMMAND} -E rm -rf ${CMAKE_BINARY_DIR}/man
  COMMAND ${PROJECT_SOURCE_DIR}/scripts/man.sh $<TARGET_FILE_DIR:mayfly> ${CMAKE_BINARY_DIR}/man
  DEPENDS mayfly mayfly-filter mayfly-jailer mayfly-vmm ${PROJECT_SOURCE_DIR}/scripts/man.sh)
add_custom_target(manual ALL DEPENDS ${CMAKE_BINARY_DIR}/man)
install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION share/man/man1)

foreach(shell bash zsh fish)
  add_custom_command(TARGET manual POST_BUILD
    COMMAND $<TARGET_FILE:mayfly> completion ${shell} >${CMAKE_BINARY_DIR}/completion.${shell})
endforeach()
install(FILES ${CMAKE_BINARY_DIR}/completion.bash DESTINATION share/bash-completion/completions RENAME mayfly)
install(FILES ${CMAKE_BINARY_DIR}/completion.zsh DESTINATION share/zsh/vendor-completions RENAME _mayfly)
install(FILES ${CMAKE_BINARY_DIR}/completion.fish DESTINATION share/fish/vendor_completions.d RENAME mayfly.fish)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME mayfly)
set(CPACK_PACKAGE_CONTACT "The Mayfly developers <mayfly@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "microVMs for serverless workloads: one command, one virtual machine")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_STRIP_FILES ON)
# The executables are static. What some subcommands run: image build and import, run --net.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "e2fsprogs, fakeroot, tar, nftables, passt, skopeo, umoci")
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
include(CPack)
